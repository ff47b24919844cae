package chaos

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

// The servers of the world that are in no container, but for windowsUDP on TCP, and
// the port of none.
const (
	linuxPort   = 9000
	windowsPort = 9001
	windowsUDP  = 9002
	closedPort  = 9009
)

// A wsl is what is known of WSL's own setup.
type wsl struct {
	whole bool // it was all there at the last look
	// hit says that a part was lost since WSL has started. The seed determines it, and
	// not what was restored.
	hit bool
	// next is the step from which on a part may be lost again. wslmirror tires of
	// restoring what is lost all the time, and then there would be nothing to see.
	next int
	// known says that a daemon that serves has seen it whole, and due that it should
	// restore what was lost since.
	known, due bool
	losses     []time.Time
	// block says that the source ports of Linux are known: WSL's chain tells them.
	block bool
}

// lose notes that a part of WSL's setup is about to be lost.
//
// A daemon gives up after two losses of one part within a minute. It is expected to
// restore only what it must, whatever each loss was.
func (w *world) lose() {
	now := time.Now()
	w.wsl.losses = slices.DeleteFunc(w.wsl.losses, func(t time.Time) bool { return now.Sub(t) > lossesWithin })
	w.wsl.due = w.wsl.known && w.serving() && w.acting() == len(w.daemons) && len(w.wsl.losses) < mostLosses
	w.wsl.losses, w.wsl.hit, w.wsl.next = append(w.wsl.losses, now), true, w.step+lossEvery
}

// mayLose reports whether a part of WSL's setup may be lost again.
func (w *world) mayLose() bool { return w.step >= w.wsl.next }

// lossEvery is in steps, of which a world has about three a second: two losses a minute.
const lossEvery = 120

const (
	mostLosses   = 2
	lossesWithin = 62 * time.Second
)

// Where loopback0 is.
type place int

const (
	present place = iota
	absent
	renamed
	movedOut
)

// A world is a bench and the model of what is on it.
type world struct {
	bench *lab.Bench
	cfg   Config
	rng   *rand.Rand
	dir   string // for the daemons' runtime directories

	step      int // how many faults there were
	loopback0 place
	wsl       wsl
	shadowed  bool // an ip rule of others comes before ours
	rpFilter  bool // ufw has set all.rp_filter
	eth0Open  bool // route_localnet of eth0
	foreign   foreign
	docker    *engine
	podman    *engine
	cni       *engine // nil in a world without holders

	daemons []*daemon
	started int  // how many there were
	crashed bool // the last daemon that ended was killed
	full    bool // the runtime directories are, of the daemons that were there then
	sealed  bool // they are read-only

	kept     []keptConn // connections that must survive
	canaries []string   // what they were in the beginning
	forger   forger
}

func newWorld(cfg Config) (w *world, err error) {
	w = &world{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0)), wsl: wsl{whole: true}, eth0Open: cfg.Mode != lab.Consomme}
	if w.dir, err = os.MkdirTemp("", "mirrorlab-chaos-"); err != nil {
		return nil, err
	}
	// The daemons' user must come to its file systems in there.
	err = os.Chmod(w.dir, 0o755)
	if err == nil {
		err = w.build()
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) build() (err error) {
	opts := lab.Options{Mode: w.cfg.Mode, Ports: 4096}
	if w.holds() {
		opts.Tracker = &tracker.Options{OldKernel: true}
	}
	if w.bench, err = lab.New(opts); err != nil {
		return err
	}
	if err := w.bench.WSL.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if _, err := w.bench.WSL.ServeEcho("tcp", at(localhost, linuxPort)); err != nil {
		return err
	}
	if err := w.buildEngines(); err != nil {
		return err
	}
	if err := w.serveWindows(); err != nil {
		return err
	}
	if err := w.buildCanaries(); err != nil {
		return err
	}
	if err := w.buildForger(); err != nil {
		return err
	}
	return w.startDaemon()
}

// close ends the daemons first, so that they do not work on a world that ends.
func (w *world) close() error {
	var errs []error
	for _, d := range w.daemons {
		errs = append(errs, w.endHolder(d, unix.SIGKILL), d.proc.Close())
	}
	w.cut(nil)
	errs = append(errs, w.foreign.close(), w.forger.close())
	for _, e := range w.engines() {
		for _, p := range e.ports {
			errs = append(errs, p.release())
		}
	}
	if w.bench != nil {
		errs = append(errs, w.bench.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

func (w *world) engines() []*engine {
	return slices.DeleteFunc([]*engine{w.docker, w.podman, w.cni}, func(e *engine) bool { return e == nil })
}

// ruled reports whether the rules of all engines are in the kernel.
func (w *world) ruled() bool {
	return !slices.ContainsFunc(w.engines(), func(e *engine) bool { return !e.rules })
}

// serving reports whether a daemon should have its table in the kernel: one that
// can act, with loopback0 there.
func (w *world) serving() bool { return w.acting() > 0 && w.loopback0 == present }

// acting is how many daemons run and are not stopped.
func (w *world) acting() (n int) {
	for _, d := range w.daemons {
		if !d.stopped {
			n++
		}
	}
	return n
}

// whole reports whether every way of the matrix should work, but for what a way
// itself knows.
func (w *world) whole() bool {
	return w.serving() && w.wsl.whole && w.ruled() && !w.rpFilter
}
