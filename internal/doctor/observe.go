package doctor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Config says where to look.
type Config struct {
	// Iface is the link on which Windows' localhost arrives.
	Iface string
	// Root is the folder that contains /etc, /proc, /run and /mnt: "/" except in tests.
	Root string
	// Status asks the daemon.
	Status func() (status.Snapshot, error)
	// Hold reads what the holder tells. It may be nil.
	Hold func() (status.Hold, error)
	// Service asks systemd about the service. It may be nil.
	Service func(context.Context) (Service, error)
	// Inside finds the listeners in the container with an address. If it is nil,
	// they are supposed to be there.
	Inside func(netip.Addr) ([]ports.Listener, error)
}

// errSlow says that a read took too long.
var errSlow = errors.New("no answer in time")

// A survey is a group of reads that run at the same time.
type survey struct {
	ctx context.Context
	sync.WaitGroup
}

// look runs f and stores its result, or errSlow when the survey's time is
// over. It then leaves f behind, which may hang on a network drive or a program.
func look[T any](s *survey, into *Seen[T], f func() (T, error)) {
	s.Go(func() {
		done := make(chan Seen[T], 1)
		go func() {
			v, err := f()
			done <- Seen[T]{v, err}
		}()
		select {
		case *into = <-done:
		case <-s.ctx.Done():
			*into = Seen[T]{Err: errSlow}
		}
	})
}

// observe reads everything at the same time, until ctx is done.
func observe(ctx context.Context, cfg Config) *Observation {
	o := &Observation{Iface: cfg.Iface, Root: os.Geteuid() == 0}
	f := files{cfg.Root}
	o.Systemd = f.exists("run/systemd/system") // sd_booted(3)
	o.NFTables = f.nftablesEnabled()
	o.UFW = f.exists("usr/sbin/ufw")

	s := &survey{ctx: ctx}
	s.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, Timeout/2)
		defer cancel()
		o.Guest = windows.LookAtGuest(ctx)
	})
	if o.Systemd && cfg.Service != nil {
		look(s, &o.Service, func() (Service, error) { return cfg.Service(ctx) })
	}
	if cfg.Hold != nil {
		look(s, &o.Hold, cfg.Hold)
	}
	look(s, &o.Bind, bind)
	look(s, &o.Sysctls, f.sysctls)
	look(s, &o.Daemons, f.daemons)
	look(s, &o.WSLConfig, func() (windows.Config, error) { return windows.ReadConfig(f.path("mnt/c/Users")) })
	_, noPodman := exec.LookPath("podman")
	o.Podman.Present = noPodman == nil
	o.Podman.ForceListen.Value, o.Podman.ForceListen.Err = f.forceListen()
	if o.Podman.Present && !o.Podman.ForceListen.Value && !showsBound(windows.KernelRelease()) {
		look(s, &o.Podman.Version, func() (string, error) { return podmanVersion(ctx) })
	}
	s.Go(func() { observePrograms(s.ctx, o, f) })
	s.Go(func() { observeRules(s.ctx, o, f, cfg) })
	s.Wait()
	if o.Net.Err == nil {
		look(s, &o.Unsent, o.unsent)
		s.Wait()
	}
	return o
}

// unsent are the listeners to which Windows sends no packets, and that Linux's packets do
// not reach directly either, according to the kernel's routes.
func (o *Observation) unsent() (list []ports.Listener, err error) {
	var all []ports.Listener
	for _, l := range o.Listeners.Value {
		on := l.Addr.Addr()
		if o.WSLConfig.Value.Ignores(l.Addr.Port()) && l.TakesIPv4() && (on.IsUnspecified() || on == ruleset.Localhost) {
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	c, err := netwatch.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for _, l := range all {
		q := netwatch.RouteQuery{Dst: ruleset.Localhost, Port: l.Addr.Port(), Proto: unix.IPPROTO_TCP}
		if l.Proto == "udp" {
			q.Proto = unix.IPPROTO_UDP
		}
		a, err := c.Route(q)
		if err != nil {
			return nil, err
		}
		if a.Type != unix.RTN_LOCAL {
			list = append(list, l)
		}
	}
	return list, nil
}

// observePrograms lists the processes, and then asks those that run: connecting
// to the socket of a stopped Docker would start it.
func observePrograms(ctx context.Context, o *Observation, f files) {
	s := &survey{ctx: ctx}
	look(s, &o.Programs, f.programs)
	s.Wait()
	if o.runs("NetworkManager") {
		look(s, &o.Managed, func() (bool, error) { return managed(ctx, o.Iface) })
	}
	dockerd := o.programs("dockerd")
	o.Docker.Desktop = len(dockerd) == 0 && o.runs(dockerDesktop)
	if len(dockerd) > 0 {
		look(s, &o.Docker.Version, func() (string, error) { return f.dockerVersion(ctx) })
		look(s, &o.Docker.Settings, func() (DockerSettings, error) { return f.dockerSettings(dockerd[0].Args) })
	}
	s.Wait()
}

// observeRules reads links and sockets, then what the ruleset does to packets
// between them, and last the block of source ports, which depends on the ruleset.
func observeRules(ctx context.Context, o *Observation, f files, cfg Config) {
	s := &survey{ctx: ctx}
	look(s, &o.Status, cfg.Status)
	look(s, &o.Net, func() (Network, error) { return readNetwork(cfg.Iface) })
	look(s, &o.Listeners, ports.Listeners)
	look(s, &o.Legacy, f.legacyTables)
	s.Wait()
	by := o.traced(cfg.Inside)
	end, _ := ctx.Deadline()
	look(s, &o.Ruleset, func() (Ruleset, error) { return readRuleset(by, o.named(), end.Add(-Timeout/4)) }) // early enough to tell
	s.Wait()
	reserved := o.Ruleset.Value.Reserved
	if p := o.Status.Value.SourcePorts; o.Ruleset.Err != nil && p != nil {
		reserved = *p
	}
	look(s, &o.Block, func() (ports.Block, error) { return ports.ReadBlock(reserved) })
	s.Wait()
}

func readNetwork(iface string) (n Network, err error) {
	c, err := netwatch.Open()
	if err != nil {
		return n, err
	}
	defer c.Close()
	var errs [6]error
	n.Links, errs[0] = c.Links()
	n.Prefixes, errs[1] = c.Prefixes()
	n.Rules, errs[2] = c.Rules()
	n.Routes, errs[3] = c.Routes()
	n.Neighbours, errs[4] = c.Neighbours()
	n.Mode, errs[5] = c.Mode(netwatch.Find(n.Links, iface))
	n.Paths = n.paths(iface)
	for i := range n.Paths {
		p := &n.Paths[i]
		p.Is, p.Err = c.Route(p.Query)
	}
	return n, errors.Join(errs[:]...)
}

// traced is the observation for trace, without the facts that come from the ruleset.
func (o *Observation) traced(inside func(netip.Addr) ([]ports.Listener, error)) *trace.Observation {
	n := o.Net.Value
	unread := ""
	if len(o.Legacy.Value) > 0 {
		unread = "iptables-legacy contains rules, which wslmirror does not read: " + strings.Join(o.Legacy.Value, ", ")
	}
	return &trace.Observation{
		Unread: unread, Link: o.Iface, Links: n.Links, Prefixes: n.Prefixes, Rules: n.Rules,
		Listeners: o.Listeners.Value, NoUDP: errors.Is(o.Listeners.Err, sockdiag.ErrNoUDP),
		Inside: func(a netip.Addr) ([]ports.Listener, error) {
			if inside == nil {
				return nil, trace.ErrSupposed
			}
			list, err := inside(a)
			if err != nil { // it may be a container of another distribution
				err = trace.ErrSupposed
			}
			return list, err
		},
	}
}

// readRuleset reads the ruleset, and follows packets until the given time. Containers reach the
// ports toWindows on Windows' 127.0.0.1.
func readRuleset(by *trace.Observation, toWindows []ruleset.Port, until time.Time) (out Ruleset, err error) {
	r, err := ruleset.OpenReader(nft.TableName)
	if err != nil {
		return out, err
	}
	defer r.Close()
	wsl, err := r.WSLChains()
	if errors.Is(err, unix.EPERM) {
		return out, errors.New("only root can read the ruleset")
	}
	if err != nil {
		return out, err
	}
	c, err := netwatch.Open()
	if err != nil {
		return out, err
	}
	defer c.Close()
	owner, present, err := r.Owner(nft.TableName)
	if err != nil {
		return out, err
	}
	loopback := ruleset.Iface{Name: by.Link, Index: netwatch.Find(by.Links, by.Link).Index}
	by.Route, by.Served = c.Route, owner != 0
	_, err = r.Read(func(rs *ruleset.Ruleset) error {
		by.See(rs)
		out = Ruleset{WSL: wsl, Published: by.Published, Ours: nft.OurTable{Table: nft.TableOf(rs), Owner: owner, Present: present}}
		foreign := nft.FindForeignRules(rs, loopback)
		out.Present, out.Missing = foreign.Present, foreign.Add
		asked := questions(by, toWindows)
		for i, q := range asked {
			if time.Now().After(until) {
				out.Unfollowed = len(asked) - i
				break
			}
			out.Walks = append(out.Walks, Walk{q, by.AskOn(q)})
		}
		out.Reserved.First, out.Reserved.Last = rs.SourcePorts()
		out.Passes, out.PassesKnown = rs.Passes(loopback)
		out.Docker = rs.HasChain("DOCKER") || rs.HasTable("docker-bridges")
		out.UFW, out.Firewalld = by.UFW, rs.HasTable("firewalld")
		return nil
	})
	if err == nil {
		if rules, err := r.Rules(unix.NFPROTO_IPV4, "nat", "WSLPREROUTING"); err == nil {
			out.Gist = len(rules) > 0
		}
	}
	return out, err
}

// firstClient is the first UDP port that is treated as that of a client which waits
// for an answer: Linux's own source ports begin there, and WSL's blocks are above it.
const firstClient = 32768

// questions are the requests to follow: from Windows and from Linux to each port of Linux,
// from Linux to Windows, and from containers to the ports toWindows there. One more goes from
// Windows to a port without a listener yet.
func questions(o *trace.Observation, toWindows []ruleset.Port) (list []trace.Question) {
	if !netwatch.Find(o.Links, o.Link).Up {
		return nil
	}
	var all []ruleset.Port
	taken := map[uint16]bool{}
	for _, l := range o.Listeners {
		taken[l.Addr.Port()] = true
		on := l.Addr.Addr()
		for _, p := range protocols {
			client := l.Proto == "udp" && l.Addr.Port() >= firstClient
			if p.name == l.Proto && !client && !l.Bound && !l.MPTCP && l.TakesIPv4() && (on.IsUnspecified() || on == ruleset.Localhost) {
				all = add(all, ruleset.Port{Proto: p.number, Number: l.Addr.Port()})
			}
		}
	}
	for _, p := range o.Published {
		taken[p.Port.Number] = true
		if slices.ContainsFunc(o.Listeners, func(l ports.Listener) bool {
			return l.Announces(p.Port.ProtoName(), p.Port.Number, p.Addr.String())
		}) {
			all = add(all, p.Port)
		}
	}
	free := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8000}
	for taken[free.Number] {
		free.Number++
	}
	list = []trace.Question{
		{Port: free, From: trace.Windows, Suppose: true},
		{Port: free, From: trace.Linux, Suppose: true},
		{Port: ruleset.Port{Proto: unix.IPPROTO_UDP, Number: free.Number}, From: trace.Linux, Suppose: true},
	}
	for _, p := range all {
		list = append(list, trace.Question{Port: p, From: trace.Windows}, trace.Question{Port: p, From: trace.Linux})
	}
	for _, l := range o.Links {
		// One container stands for all on its bridge.
		i := slices.IndexFunc(o.Published, func(p ruleset.Published) bool {
			return l.Kind == "bridge" && slices.ContainsFunc(o.Prefixes[l.Index], func(n netip.Prefix) bool { return n.Contains(p.To.Addr()) })
		})
		for _, p := range toWindows {
			if i >= 0 {
				list = append(list, trace.Question{Port: p, From: trace.Container, Addr: o.Published[i].To.Addr(), Suppose: true})
			}
		}
	}
	return list
}

// named are the ports that containers reach on Windows' 127.0.0.1, according to the daemon.
func (o *Observation) named() (list []ruleset.Port) {
	for _, d := range o.Status.Value.Directions {
		if d.Name != status.ContainersToWindows || !d.Active {
			continue
		}
		for _, port := range d.Ports {
			for _, p := range protocols {
				digits, is := strings.CutSuffix(port, "/"+p.name)
				if n, err := strconv.ParseUint(digits, 10, 16); is && err == nil {
					list = append(list, ruleset.Port{Proto: p.number, Number: uint16(n)})
				}
			}
		}
	}
	return list
}

// bind binds a netlink socket. WSL's port tracker handles that like the bind of a port.
func bind() (none struct{}, err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return none, err
	}
	defer unix.Close(s)
	return none, unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}
