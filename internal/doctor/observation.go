package doctor

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Seen is what a look showed, or why it showed nothing.
type Seen[T any] struct {
	Value T
	Err   error
}

// An Observation is all that the checks judge.
type Observation struct {
	// Iface is the link on which Windows' localhost arrives.
	Iface string
	// Root says that this process may see everything.
	Root bool

	Guest   windows.Guest
	Systemd bool // systemd is process 1
	// NFTables says that systemd starts nftables.service at boot.
	NFTables bool
	// UFW says that ufw is installed.
	UFW bool

	// Bind is the error of a bind() that asks for no port.
	Bind    Seen[struct{}]
	Net     Seen[Network]
	Sysctls Seen[map[string]Conf] // by link, and "all"

	Ruleset   Seen[Ruleset]
	Block     Seen[ports.Block]
	Listeners Seen[[]ports.Listener]
	Legacy    Seen[[]string] // the tables of iptables-legacy

	Status Seen[status.Snapshot]
	// Hold is what the holder tells; fs.ErrNotExist where none runs.
	Hold Seen[status.Hold]
	// Service is what systemd says, empty where it is not asked.
	Service Seen[Service]
	// Daemons is how many wslmirrors run in this network: the one that owns the
	// table, and those that stand by.
	Daemons Seen[int]
	// Programs are the processes that matter here.
	Programs Seen[[]Program]

	Docker Docker
	Podman Podman
	// Managed says that NetworkManager manages the link.
	Managed   Seen[bool]
	WSLConfig Seen[windows.Config]
	// Unsent are the ports of listeners that Windows never sends, and to which Linux
	// has no rule of its own either.
	Unsent Seen[[]ports.Listener]
}

// A Service is what systemd says of wslmirror.service.
type Service struct {
	// Trouble says why it does not run, "" if it has not failed.
	Trouble string
	// BadOptions says that it was refused for its options.
	BadOptions bool
}

// A Network is what the kernel says of links, routes and ip rules.
type Network struct {
	// Mode is WSL's, by what the kernel shows.
	Mode       netwatch.Mode
	Links      []netwatch.Link
	Prefixes   map[int][]netip.Prefix // by the index of the link
	Rules      []netwatch.Rule
	Routes     []netwatch.Route
	Neighbours []netwatch.Neighbour
	// Paths are what the kernel was asked about.
	Paths []Path
}

// LinkName is the name of the link with that index, "" if there is none.
func (n Network) LinkName(index int) string {
	for _, l := range n.Links {
		if l.Index == index {
			return l.Name
		}
	}
	return ""
}

// A Conf is sysctls of a link, below net.ipv4.conf.
type Conf struct{ RPFilter, AcceptLocal, RouteLocalnet int }

// A Ruleset is what of the ruleset matters here.
type Ruleset struct {
	Ours      nft.OurTable
	Published []ruleset.Published
	// Present are the rules of ours in the tables of others. Missing are those that
	// should be ahead of drops there.
	Present, Missing []nft.ForeignRule
	// Walks are the requests that were followed through all rules and back.
	Walks []Walk
	// Unfollowed is how many more there was no time for.
	Unfollowed int
	// WSL are WSL's own chains.
	WSL []ruleset.WSLChain
	// Reserved is the block that WSL has reserved in Windows, by its own rule.
	Reserved ports.Range
	// Passes says that an engine lets loopback0 pass by itself; it is of no worth
	// if PassesKnown is false.
	Passes, PassesKnown bool
	// Docker, UFW and Firewalld say that their chains or tables are there.
	Docker, UFW, Firewalld bool
	// Gist says that a chain ip nat WSLPREROUTING is there, which is not ours.
	Gist bool
}

// A Walk is a request, and what trace.Observation.AskOn says of it.
type Walk struct {
	trace.Question
	Traces []trace.Trace
}

// A Program is a process that runs in this network.
type Program struct {
	PID  int
	Name string // as in /proc/PID/comm
	Args []string
	// Sure says that its network was seen to be this one.
	Sure bool
	// Service says that it is systemd's wslmirror.service.
	Service bool
}

// Docker is what was seen of Docker.
type Docker struct {
	Version Seen[string]
	// Desktop says that the engine is Docker Desktop's.
	Desktop bool
	// Settings are those of daemon.json that matter here.
	Settings Seen[DockerSettings]
}

// DockerSettings are settings of dockerd.
type DockerSettings struct {
	UserlandProxy bool
	Firewall      string // "iptables", "nftables" or "none"
}

// Podman is what was seen of Podman.
type Podman struct {
	Present bool
	// Version is "" where nothing depends on it: to ask takes a quarter of a second of CPU.
	Version Seen[string]
	// ForceListen is force_port_listen of containers.conf.
	ForceListen Seen[bool]
}

// link is loopback0, which is not Present if there is none.
func (o *Observation) link() netwatch.Link { return netwatch.Find(o.Net.Value.Links, o.Iface) }

// shared reports whether Windows and Linux share localhost, or should. The link
// tells; wslinfo tells where the link is missing.
func (o *Observation) shared() bool {
	return o.link().Present() || o.Guest.Mode == "mirrored" || o.Net.Err != nil
}

// consomme reports whether the mode is the one without chains, block and addresses
// of the LAN. wslinfo is asked only where the kernel cannot be.
func (o *Observation) consomme() bool {
	if o.Net.Err != nil {
		return o.Guest.Mode == "consomme" || o.Guest.Mode == "virtioproxy"
	}
	return o.Net.Value.Mode == netwatch.Consomme
}

// nics are the links that WSL mirrors, by its own ip rules, without loopback0.
func (o *Observation) nics() (names []string) {
	for _, r := range o.Net.Value.Rules {
		if r.Priority == 0 && r.Iif != "" && r.Iif != o.Iface && r.Table == unix.RT_TABLE_LOCAL && (r.IPProto == unix.IPPROTO_TCP || r.IPProto == unix.IPPROTO_UDP) {
			names = add(names, r.Iif)
		}
	}
	return names
}

// programs are those of that name. Where some are known to be of this network, the
// others are not counted: one that is about to end has no network any more.
func (o *Observation) programs(name string) (list []Program) {
	var sure []Program
	for _, p := range o.Programs.Value {
		if p.Name != name {
			continue
		}
		list = append(list, p)
		if p.Sure {
			sure = append(sure, p)
		}
	}
	if len(sure) > 0 {
		return sure
	}
	return list
}

// runs reports whether a program of that name runs.
func (o *Observation) runs(name string) bool { return len(o.programs(name)) > 0 }

// active reports whether a wslmirror serves this network, as far as one can see,
// in this distribution or in another one.
func (o *Observation) active() bool {
	switch {
	case o.Status.Err == nil && o.Status.Value.State == status.Active:
		return true
	case o.Ruleset.Err == nil:
		return o.Ruleset.Value.Ours.Owner != 0
	}
	return o.Daemons.Err == nil && o.Daemons.Value > 0
}

// published are the ports that engines publish: by the ruleset, or where that
// cannot be seen by the word of the daemon.
func (o *Observation) published() (list []status.Port, err error) {
	if s := o.Status; o.Ruleset.Err != nil && s.Err == nil && s.Value.State == status.Active {
		return s.Value.Ports, nil
	}
	for _, p := range o.Ruleset.Value.Published {
		path := status.PathProxy
		if p.EngineServed {
			path = status.PathKernel
		}
		list = append(list, status.Port{Proto: p.Port.ProtoName(), Port: p.Port.Number, Address: p.Addr.String(), Target: p.To.String(), Engine: p.Engine, Path: path})
	}
	return list, o.Ruleset.Err
}

// add appends what is not there yet.
func add[T comparable](to []T, item T) []T {
	if slices.Contains(to, item) {
		return to
	}
	return append(to, item)
}
