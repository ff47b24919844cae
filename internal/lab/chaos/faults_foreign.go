package chaos

import (
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// foreign is what other programs have done beside the engines.
type foreign struct {
	redirects bool      // transparent proxies have rules at the hook output
	blocklist bool      // there are sets with tens of thousands of elements
	owned     io.Closer // a table that another process owns; nil: none
	squatter  io.Closer // who has taken the beacon's name; nil: nobody
}

func (f *foreign) close() error {
	var errs []error
	for _, c := range []*io.Closer{&f.owned, &f.squatter} {
		if *c != nil {
			errs = append(errs, (*c).Close())
			*c = nil
		}
	}
	return errors.Join(errs...)
}

// ownedPort is one that Docker publishes on 127.0.0.1.
const ownedPort = 8082

// drops reports whether the table that is owned keeps packets from a port.
func (f *foreign) drops(p *port) bool {
	return f.owned != nil && p.proto == "tcp" && p.number == ownedPort
}

// redirectTable sends a user, and what has a mark, to a proxy that is not there.
const redirectTable = `table ip proxy {
	chain out { type nat hook output priority -150; meta skuid 4711 meta l4proto tcp redirect to :12345; meta mark 0x539 meta l4proto tcp dnat to 10.0.0.9:15001; }
}
`

// hugeSet is how many elements a blocklist has here. With more it is the loading
// that takes long.
const hugeSet = 20_000

var foreignFaults = []fault{
	{"proxies redirect at the hook output", 1, func(w *world) bool { return !w.foreign.redirects }, func(w *world) error {
		w.foreign.redirects = true
		return w.nft(redirectTable)
	}, others},
	{"the proxies have gone", 5, func(w *world) bool { return w.foreign.redirects }, func(w *world) error {
		w.foreign.redirects = false
		return w.nft("delete table ip proxy\n")
	}, others},
	{"a blocklist loaded", 1, func(w *world) bool { return !w.foreign.blocklist }, func(w *world) error {
		w.foreign.blocklist = true
		return w.bench.WSL.Blocklist(hugeSet)
	}, others},
	{"the blocklist has gone", 8, func(w *world) bool { return w.foreign.blocklist }, func(w *world) error {
		w.foreign.blocklist = false
		return w.nft("delete table inet blocklist\n")
	}, others},
	{"a table that another process owns", 1, func(w *world) bool { return w.foreign.owned == nil }, func(w *world) (err error) {
		w.foreign.owned, err = w.bench.WSL.OwnTable("firewall", ownedPort)
		return err
	}, others | cuts},
	{"the owner of a table has gone", 8, func(w *world) bool { return w.foreign.owned != nil }, func(w *world) error {
		err := w.foreign.owned.Close()
		w.foreign.owned = nil
		// The kernel removes the table after the socket was closed.
		for deadline := w.deadline(); err == nil; time.Sleep(time.Millisecond) {
			if _, gone := w.bench.WSL.Run("nft", "list", "table", "ip", "firewall"); gone != nil {
				break
			}
			if time.Now().After(deadline) {
				err = errors.New("the table of a process that has gone is still there")
			}
		}
		return err
	}, others},
	{"a stranger takes the beacon's name", 20, func(w *world) bool { return len(w.daemons) == 0 && w.foreign.squatter == nil }, func(w *world) error {
		var l net.Listener
		err := w.bench.WSL.Do(func() (err error) {
			// A socket that was closed keeps its name until nobody waits in it any more.
			for deadline := w.deadline(); ; time.Sleep(time.Millisecond) {
				if l, err = net.Listen("unix", "@wslmirror"); !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
		w.foreign.squatter = l
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return nil
	}, 0},
	{"the stranger has gone", 10, func(w *world) bool { return w.foreign.squatter != nil }, func(w *world) error {
		err := w.foreign.squatter.Close()
		w.foreign.squatter = nil
		return errors.Join(err, w.nudge()) // so that the next look takes the name back
	}, 0},
}
