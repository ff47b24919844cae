package lab

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Host is one machine of the bench: a network namespace that has no name and
// no mount, so it ends when the last process and descriptor in it end. That is
// why nothing is left behind by a crash.
type Host struct {
	Name string

	// Net configures the host's links, addresses, routes and rules.
	Net *netlink.Handle

	ns netns.NsHandle
	// beforeDial runs before the host's clients open a connection to an address.
	beforeDial func(proto, addr string) error
	// enter runs on each thread that enters the host.
	enter func() error

	mu   sync.Mutex
	open map[io.Closer]struct{} // what Close has to end: processes, servers, clients
}

// newHost makes an empty network namespace, with its loopback up.
func newHost(name string) (*Host, error) {
	var ns netns.NsHandle
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace for %s: %w", name, err)
		}
		var err error
		ns, err = netns.Get()
		return err
	})
	if err != nil {
		return nil, err
	}
	h, err := hostAt(name, ns)
	if err != nil {
		return nil, err
	}
	lo, err := h.Net.LinkByName("lo")
	if err == nil {
		err = h.Net.LinkSetUp(lo)
	}
	if err == nil {
		err = h.Sysctl("ipv4/tcp_congestion_control", congestionControl)
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// hostAt makes a host of a network namespace, whose handle it closes.
func hostAt(name string, ns netns.NsHandle) (*Host, error) {
	h := &Host{
		Name:       name,
		ns:         ns,
		beforeDial: func(string, string) error { return nil },
		enter:      func() error { return nil },
		open:       map[io.Closer]struct{}{},
	}
	var err error
	// Not for all that the library knows: a kernel may have no xfrm.
	if h.Net, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return h, nil
}

// congestionControl is that of all hosts and containers. A namespace has that of the
// machine otherwise, and some pace what they send, which would be measured instead.
// WSL's is cubic, which a namespace may not choose everywhere (see
// tcp_set_default_congestion_control in net/ipv4/tcp_cong.c); where nothing is lost
// this is the same.
const congestionControl = "reno"

// Close ends what still runs in the host (processes, servers, clients) and lets
// go of the namespace, which ends with it.
func (h *Host) Close() error {
	h.mu.Lock()
	open := slices.Collect(maps.Keys(h.open))
	h.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // it is ended, not judged
	}
	h.Net.Close()
	return h.ns.Close()
}

// keep has Close end c.
func (h *Host) keep(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[c] = struct{}{}
}

// forget is for what has ended by itself.
func (h *Host) forget(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, c)
}

// onThread runs fn on an operating system thread of its own and then lets that
// thread die, because a thread that has changed its namespace must never serve
// other goroutines again.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// Do runs fn inside the host. Sockets that fn opens stay in the host wherever
// they are used later. A goroutine that fn starts is not in the host.
func (h *Host) Do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter %s: %w", h.Name, err)
		}
		if err := h.enter(); err != nil {
			return fmt.Errorf("enter %s: %w", h.Name, err)
		}
		return fn()
	})
}

// NFT opens a connection to the host's nftables.
func (h *Host) NFT(opts ...nftables.ConnOption) (*nftables.Conn, error) {
	return nftables.New(append(opts, nftables.WithNetNSFd(int(h.ns)))...)
}

// NetNS is the descriptor of the host's network namespace. It belongs to the
// host; do not close it.
func (h *Host) NetNS() int { return int(h.ns) }

// Sysctl sets a value below /proc/sys/net, for example "ipv4/conf/all/rp_filter".
func (h *Host) Sysctl(key, value string) error {
	return h.Do(func() error {
		// The kernel resolves /proc/sys/net by the namespace of the calling
		// thread, not of the process.
		return os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0)
	})
}

// GetSysctl reads a value below /proc/sys/net.
func (h *Host) GetSysctl(key string) (string, error) {
	var value string
	err := h.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", key))
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

// A Process is a program that runs inside a host.
type Process struct {
	*exec.Cmd
	done chan struct{}
	err  error
}

// Start starts cmd inside the host. The program is killed when this process
// ends, however it ends.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 2)
	go func() {
		started <- h.Do(func() error {
			// Pdeathsig fires when the *thread* that forked ends, so this
			// thread stays for as long as the program runs.
			if err := cmd.Start(); err != nil {
				return err
			}
			started <- nil
			p.err = cmd.Wait()
			close(p.done)
			return nil
		})
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", filepath.Base(cmd.Path), h.Name, err)
	}
	h.keep(p)
	go func() {
		<-p.done
		h.forget(p)
	}()
	return p, nil
}

// Close kills the program, if it still runs, and waits for its end.
func (p *Process) Close() error {
	_ = p.Stop(syscall.SIGKILL) // the error says that it was killed
	return nil
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program to end and returns what exec.Cmd.Wait returned.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Stop sends sig and waits for the program to end.
func (p *Process) Stop(sig os.Signal) error {
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.Wait()
}

// Run runs a program inside the host to its end and returns what it printed on
// both its outputs.
func (h *Host) Run(name string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := h.Start(cmd)
	if err != nil {
		return "", err
	}
	if err := p.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s in %s: %w: %s", name, strings.Join(args, " "), h.Name, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}
