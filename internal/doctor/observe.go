package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
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
	// Iface is the link by which Windows' localhost comes.
	Iface string
	// Root is the folder in which /etc, /proc, /run and /mnt are: "/" but in tests.
	Root string
	// Status asks the daemon.
	Status func() (status.Snapshot, error)
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
func look[T any](s *survey, into *Seen[T], f func(context.Context) (T, error)) {
	s.Go(func() {
		done := make(chan Seen[T], 1)
		go func() {
			v, err := f(s.ctx)
			done <- Seen[T]{v, err}
		}()
		select {
		case *into = <-done:
		case <-s.ctx.Done():
			*into = Seen[T]{Err: errSlow}
		}
	})
}

// local makes a look of what neither hangs nor needs to know when to end.
func local[T any](f func() (T, error)) func(context.Context) (T, error) {
	return func(context.Context) (T, error) { return f() }
}

// observe looks at everything at the same time, until ctx is done.
func observe(ctx context.Context, cfg Config) *Observation {
	o := &Observation{Iface: cfg.Iface, Root: os.Geteuid() == 0}
	f := files{cfg.Root}
	o.Release, o.Systemd = release(), f.exists("run/systemd/system") // sd_booted(3)
	o.NFTables = f.nftablesEnabled()

	s := &survey{ctx: ctx}
	var wslinfo Seen[string]
	// PATH leads over drives of Windows, too, which may hang.
	look(s, &wslinfo, local(func() (string, error) { return exec.LookPath("wslinfo") }))
	look(s, &o.Mode, windows.NetworkingMode)
	if o.Systemd && cfg.Service != nil {
		look(s, &o.Service, cfg.Service)
	}
	look(s, &o.Links, local(readLinks))
	look(s, &o.Rules, local(func() ([]netwatch.Rule, error) { return netlink((*netwatch.Conn).Rules) }))
	look(s, &o.Addrs, local(readAddrs))
	look(s, &o.Routes, local(readRoutes))
	look(s, &o.Neighbours, local(readNeighbours))
	look(s, &o.Sysctls, local(f.sysctls))
	look(s, &o.Listeners, local(ports.Listeners))
	look(s, &o.Legacy, local(f.legacyTables))
	look(s, &o.Daemons, local(f.daemons))
	look(s, &o.UFW, local(func() (UFW, error) { return f.ufw(cfg.Iface) }))
	look(s, &o.Trusted, local(func() (bool, error) { return f.firewalldTrusts(cfg.Iface) }))
	look(s, &o.Unmanaged, local(func() (bool, error) { return f.networkManagerLeaves(cfg.Iface) }))
	look(s, &o.WSLConfig, local(f.wslConfig))
	look(s, &o.Podman.Version, podmanVersion)
	look(s, &o.Podman.ForceListen, local(f.forceListen))
	s.Go(func() { observeDocker(s.ctx, o, f) })
	s.Go(func() { observeBlock(s.ctx, o, cfg) })
	s.Wait()
	o.WSLInfo = wslinfo.Err == nil
	return o
}

// observeDocker looks for the processes, and then asks those that are Docker's:
// to connect to the socket of a Docker that does not run would start it.
func observeDocker(ctx context.Context, o *Observation, f files) {
	s := &survey{ctx: ctx}
	look(s, &o.Programs, local(f.programs))
	s.Wait()
	dockerd := o.programs("dockerd")
	o.Docker.Desktop = len(dockerd) == 0 && o.runs(dockerDesktop)
	if len(dockerd) == 0 {
		return
	}
	look(s, &o.Docker.Version, f.dockerVersion)
	look(s, &o.Docker.Settings, local(func() (DockerSettings, error) { return f.dockerSettings(dockerd[0].Args) }))
	s.Wait()
}

// observeBlock looks at what the ruleset and the daemon have to say, and at the
// block of source ports in the light of it.
func observeBlock(ctx context.Context, o *Observation, cfg Config) {
	s := &survey{ctx: ctx}
	look(s, &o.Status, local(cfg.Status))
	look(s, &o.Ruleset, local(func() (Ruleset, error) { return readRuleset(cfg.Iface) }))
	s.Wait()
	reserved := o.Ruleset.Value.Reserved
	if p := o.Status.Value.SourcePorts; o.Ruleset.Err != nil && p != nil {
		reserved = *p
	}
	look(s, &o.Block, local(func() (ports.Block, error) { return ports.ReadBlock(reserved) }))
	s.Wait()
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// netlink asks the kernel by a socket of its own.
func netlink[T any](ask func(*netwatch.Conn) (T, error)) (answer T, err error) {
	c, err := netwatch.Open()
	if err != nil {
		return answer, err
	}
	defer c.Close()
	return ask(c)
}

func readLinks() ([]netwatch.Link, error) { return netlink((*netwatch.Conn).Links) }

func readRuleset(iface string) (out Ruleset, err error) {
	r, err := ruleset.OpenReader(nft.TableName)
	if err != nil {
		return out, err
	}
	defer r.Close()
	if out.WSL, err = r.WSLChains(); errors.Is(err, unix.EPERM) {
		return out, errors.New("only root may read the ruleset")
	}
	if err != nil {
		return out, err
	}
	by := ruleset.Iface{Name: iface}
	if l, err := net.InterfaceByName(iface); err == nil {
		by.Index = l.Index
	}
	if _, err = r.Read(func(rs *ruleset.Ruleset) error {
		out.State.Table = nft.TableOf(rs)
		out.View = rs.Analyse(by, nil)
		out.Foreign = nft.FindForeignRules(rs, by)
		out.Refusals = rs.Refusals(by)
		out.Reserved.First, out.Reserved.Last = rs.SourcePorts()
		out.Passes, out.PassesKnown = rs.Passes(by)
		out.Docker = rs.HasChain("DOCKER") || rs.HasTable("docker-bridges")
		out.Firewalld = rs.HasTable("firewalld")
		return nil
	}); err != nil {
		return out, err
	}
	out.State.Owner, out.State.Present, err = r.Owner(nft.TableName)
	if err != nil {
		return out, err
	}
	out.Counters, err = nft.ReadCounters(r)
	if err != nil {
		return out, err
	}
	return out, nil
}

// names are the names of the links by their index.
func names() (func(index int) string, error) {
	links, err := readLinks()
	return func(index int) string {
		for _, l := range links {
			if l.Index == index {
				return l.Name
			}
		}
		return ""
	}, err
}

func readAddrs() (list []Addr, err error) {
	links, err := readLinks()
	if err != nil {
		return nil, err
	}
	prefixes, err := netlink((*netwatch.Conn).Prefixes)
	for _, l := range links {
		for _, p := range prefixes[l.Index] {
			list = append(list, Addr{l.Name, p.Addr()})
		}
	}
	return list, err
}

func readRoutes() (list []Route, err error) {
	name, err := names()
	if err != nil {
		return nil, err
	}
	routes, err := netlink((*netwatch.Conn).Routes)
	for _, r := range routes {
		list = append(list, Route{r.Table, r.To, r.Via, name(r.Link), r.Type})
	}
	return list, err
}

func readNeighbours() (list []Neighbour, err error) {
	name, err := names()
	if err != nil {
		return nil, err
	}
	neighbours, err := netlink((*netwatch.Conn).Neighbours)
	for _, n := range neighbours {
		list = append(list, Neighbour{name(n.Link), n.Addr, n.State&unix.NUD_PERMANENT != 0})
	}
	return list, err
}
