package doctor

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Config says where to look.
type Config struct {
	// Iface is the link on which Windows' localhost arrives.
	Iface string
	// Root is the folder in which /etc, /proc, /run and /mnt are: "/" but in tests.
	Root string
	// Status asks the daemon.
	Status func() (status.Snapshot, error)
	// Hold reads what the holder tells. It may be nil.
	Hold func() (status.Hold, error)
	// Service asks systemd about the service. It may be nil.
	Service func(context.Context) (Service, error)
}

// errSlow says that a look took too long.
var errSlow = errors.New("no answer in time")

// A survey is looks that go on at the same time.
type survey struct {
	ctx context.Context
	sync.WaitGroup
}

// look runs f and notes what it returns, or errSlow when the survey's time is
// over: what hangs then, a network drive or a program, is left to itself.
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

// observe looks at everything at the same time, until ctx is done.
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
	look(s, &o.Net, func() (Network, error) { return readNetwork(cfg.Iface) })
	look(s, &o.Bind, bind)
	look(s, &o.Sysctls, f.sysctls)
	look(s, &o.Listeners, ports.Listeners)
	look(s, &o.Legacy, f.legacyTables)
	look(s, &o.Daemons, f.daemons)
	look(s, &o.WSLConfig, func() (windows.Config, error) { return windows.ReadConfig(f.path("mnt/c/Users")) })
	look(s, &o.Podman.Version, func() (string, error) { return podmanVersion(ctx) })
	look(s, &o.Podman.ForceListen, f.forceListen)
	s.Go(func() { observePrograms(s.ctx, o, f) })
	s.Go(func() { observeBlock(s.ctx, o, cfg) })
	s.Wait()
	if o.Net.Err == nil {
		look(s, &o.Unsent, o.unsent)
		s.Wait()
	}
	return o
}

// unsent asks the kernel where packets of Linux go to the listeners to which
// Windows sends none.
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

// observePrograms looks for the processes, and then asks those that run: to connect
// to the socket of a Docker that does not run would start it.
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

// observeBlock looks at what the ruleset and the daemon have to say, and at the
// block of source ports in the light of it.
func observeBlock(ctx context.Context, o *Observation, cfg Config) {
	s := &survey{ctx: ctx}
	look(s, &o.Status, cfg.Status)
	look(s, &o.Ruleset, func() (Ruleset, error) { return readRuleset(cfg.Iface) })
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

func readRuleset(iface string) (out Ruleset, err error) {
	r, err := ruleset.OpenReader(nft.TableName)
	if err != nil {
		return out, err
	}
	defer r.Close()
	wsl, err := r.WSLChains()
	if errors.Is(err, unix.EPERM) {
		return out, errors.New("only root may read the ruleset")
	}
	if err != nil {
		return out, err
	}
	c, err := netwatch.Open()
	if err != nil {
		return out, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return out, err
	}
	by := ruleset.Iface{Name: iface, Index: netwatch.Find(links, iface).Index}
	_, err = r.Read(func(rs *ruleset.Ruleset) error {
		out = Ruleset{WSL: wsl, Published: rs.Analyse(by, nil).Published}
		out.Ours.Table = nft.TableOf(rs)
		foreign := nft.FindForeignRules(rs, by)
		for _, r := range foreign.Present {
			out.Accepts = append(out.Accepts, r.String())
		}
		known := map[ruleset.Place]bool{}
		for _, r := range foreign.Add {
			known[r.At] = true
			out.Missing = append(out.Missing, drop(rs, ruleset.Refusal{Ports: ruleset.PortSet(r.Port), At: r.At, Sure: true}))
		}
		for _, r := range rs.Refusals(by) {
			if !known[r.At] {
				out.Drops = append(out.Drops, drop(rs, r))
			}
		}
		out.Reserved.First, out.Reserved.Last = rs.SourcePorts()
		out.Passes, out.PassesKnown = rs.Passes(by)
		out.Docker = rs.HasChain("DOCKER") || rs.HasTable("docker-bridges")
		out.UFW, out.Firewalld = rs.HasChain("ufw-before-input"), rs.HasTable("firewalld")
		return nil
	})
	if err == nil {
		if rules, err := r.Rules(unix.NFPROTO_IPV4, "nat", "WSLPREROUTING"); err == nil {
			out.Gist = len(rules) > 0
		}
		out.Ours.Owner, out.Ours.Present, err = r.Owner(nft.TableName)
	}
	return out, err
}

// bind binds a netlink socket, which WSL's port tracker allows or not as that of a port.
func bind() (none struct{}, err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return none, err
	}
	defer unix.Close(s)
	return none, unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func drop(rs *ruleset.Ruleset, r ruleset.Refusal) Drop {
	return Drop{r.Ports, r.At.Family(), r.At.Table(), r.At.Chain(), r.Sure, r.At.Handle == 0, rs.Owned(r.At)}
}
