package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A daemon is a running "wslmirror run".
type daemon struct {
	proc    *lab.Process
	dir     string // its runtime directory, a file system of its own
	log     *journal
	stopped bool    // by SIGSTOP
	holder  *holder // nil if the world has none
}

func (w *world) startDaemon() error {
	w.started++
	d := &daemon{dir: filepath.Join(w.dir, strconv.Itoa(w.started)), log: new(journal)}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return err
	}
	if err := w.runDaemon(d, func(cmd *exec.Cmd) *exec.Cmd { return inRuntimeDir(d.dir, cmd) }); err != nil {
		return err
	}
	w.daemons = append(w.daemons, d)
	if !w.holds() {
		return nil
	}
	return w.addHolder(d)
}

// runDaemon runs the program of a daemon, in its runtime directory.
func (w *world) runDaemon(d *daemon, inDir func(*exec.Cmd) *exec.Cmd) (err error) {
	path := "proxy"
	if w.cfg.Direct {
		path = "direct"
	}
	args := []string{"run", "--runtime-dir", d.dir, "--path", path, "--to-windows", toWindows, "--log-level", "debug"}
	if w.excepts() {
		args = append(args, "--except", except)
	}
	cmd := inDir(w.cfg.Program.Command(args...))
	cmd.Stderr = d.log
	d.proc, err = w.bench.WSL.Start(cmd)
	return err
}

// cleanup cleans up behind the daemons, as the unit does, and returns what that says.
func (w *world) cleanup() (string, error) {
	var out strings.Builder
	cmd := w.cfg.Program.Command("cleanup")
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := w.bench.WSL.Start(cmd)
	if err != nil {
		return "", err
	}
	if err := p.Wait(); err != nil {
		return "", fmt.Errorf("wslmirror cleanup: %w: %s", err, out.String())
	}
	return out.String(), nil
}

// end ends a daemon, with its holder: it is stopped by command, or its distribution is
// terminated.
func (w *world) end(d *daemon, sig unix.Signal) error {
	if sig != unix.SIGKILL {
		if err := d.awaitStart(); err != nil {
			return err
		}
	}
	if err := w.endHolder(d, sig); err != nil {
		return err
	}
	err := d.proc.Stop(sig)
	if sig == unix.SIGKILL {
		err = nil // which says that it was killed
	}
	w.crashed = sig == unix.SIGKILL
	w.daemons = slices.DeleteFunc(w.daemons, func(o *daemon) bool { return o == d })
	if err != nil {
		return fmt.Errorf("wslmirror ended: %w\n%s", err, d.log.tail())
	}
	return nil
}

// awaitStart waits until it is the program, and has its runtime directory.
func (d *daemon) awaitStart() error { return d.log.await("wslmirror is starting") }

// died returns an error if a daemon has ended by itself.
func (w *world) died() error {
	for _, d := range w.daemons {
		select {
		case <-d.proc.Done():
			return fmt.Errorf("wslmirror ended by itself: %w\n%s", d.proc.Wait(), d.log.tail())
		default:
		}
		if err := d.holder.died(); err != nil {
			return err
		}
	}
	return nil
}

// owner is the daemon that owns the table, nil if none does. The kernel tells
// the port of a netlink socket, /proc whose that is.
func (w *world) owner() (*daemon, error) {
	c, err := w.bench.WSL.NFT()
	if err != nil {
		return nil, err
	}
	table, err := c.ListTableOfFamily("wslmirror", nftables.TableFamilyIPv4)
	if errors.Is(err, unix.ENOENT) || err == nil && table.Owner == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sockets, err := w.netlinkSockets()
	if err != nil {
		return nil, err
	}
	for _, s := range sockets {
		if s.protocol != unix.NETLINK_NETFILTER || s.port != table.Owner {
			continue
		}
		for _, d := range w.daemons {
			if slices.Contains(openSockets(d.proc.Process.Pid), s.inode) {
				return d, nil
			}
		}
	}
	return nil, nil
}

type netlinkSocket struct {
	protocol int
	port     uint32
	events   bool // it is subscribed to some
	drops    int  // how many it has lost
	inode    string
}

// netlinkSockets reads /proc/net/netlink of WSL.
func (w *world) netlinkSockets() (list []netlinkSocket, err error) {
	var b []byte
	err = w.bench.WSL.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	})
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[0] == "sk" {
			continue
		}
		protocol, _ := strconv.Atoi(f[1])
		port, _ := strconv.ParseUint(f[2], 10, 32)
		groups, _ := strconv.ParseUint(f[3], 16, 32)
		drops, _ := strconv.Atoi(f[8])
		list = append(list, netlinkSocket{protocol, uint32(port), groups != 0, drops, f[9]})
	}
	return list, err
}

// subscriptions are the sockets by which a daemon is told of events.
func (w *world) subscriptions(d *daemon) ([]netlinkSocket, error) {
	sockets, err := w.netlinkSockets()
	its := openSockets(d.proc.Process.Pid)
	return slices.DeleteFunc(sockets, func(s netlinkSocket) bool {
		return !s.events || !slices.Contains(its, s.inode)
	}), err
}

// openSockets are the inodes of the sockets of a process.
func openSockets(pid int) (inodes []string) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		link, _ := os.Readlink(filepath.Join(dir, fd.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}

// A journal keeps the end of what a daemon logs.
type journal struct {
	mu    sync.Mutex
	first string
	buf   bytes.Buffer
}

const journalSize = 64 << 10

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !strings.HasSuffix(j.first, "\n") {
		j.first += string(p)
	}
	if j.buf.Len() > journalSize {
		j.buf.Next(j.buf.Len() / 2)
	}
	return j.buf.Write(p)
}

// await waits until the first of all lines says something.
func (j *journal) await(text string) error {
	for deadline := time.Now().Add(lab.Scaled(30 * time.Second)); time.Now().Before(deadline); {
		if strings.Contains(j.head(), text) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("wslmirror does not start\n%s", j.tail())
}

// head is the first of all lines, or as much of it as there is.
func (j *journal) head() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first
}

// tail is the last lines.
func (j *journal) tail() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := strings.SplitAfter(j.buf.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "")
}
