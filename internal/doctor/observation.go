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

// A Seen is a value that was read, or the error.
type Seen[T any] struct {
	Value T
	Err   error
}

// An Observation is everything that the checks judge.
type Observation struct {
	// Iface is the link on which packets from Windows' localhost arrive.
	Iface string
	// Root says that this process runs as root and can read everything.
	Root bool

	Guest   windows.Guest
	Systemd bool // systemd is process 1
	// NFTables says that systemd starts nftables.service at boot.
	NFTables bool
	// UFW says that ufw is installed.
	UFW bool

	// Bind is the error of a bind() of no particular port.
	Bind    Seen[struct{}]
	Net     Seen[Network]
	Sysctls Seen[map[string]Conf] // by link, and "all"

	Ruleset   Seen[Ruleset]
	Block     Seen[ports.Block]
	Listeners Seen[[]ports.Listener]
	Legacy    Seen[[]string] // the tables of iptables-legacy

	Status Seen[status.Snapshot]
	// Hold is the published state of the holder; fs.ErrNotExist if none runs.
	Hold Seen[status.Hold]
	// Service is the service's state in systemd, empty without systemd.
	Service Seen[Service]
	// Daemons is how many wslmirrors run in this network: the one that owns the
	// table, and those on standby.
	Daemons Seen[int]
	// Programs are the processes that a check needs.
	Programs Seen[[]Program]

	Docker Docker
	Podman Podman
	// Managed says that NetworkManager manages the link.
	Managed   Seen[bool]
	WSLConfig Seen[windows.Config]
	// Unsent are listeners on ports that Windows never sends, and that Linux
	// does not reach itself either.
	Unsent Seen[[]ports.Listener]
}

// A Service is the state of wslmirror.service in systemd.
type Service struct {
	// Trouble says why it is not running, "" if it has not failed.
	Trouble string
	// BadOptions says that it failed because of its options.
	BadOptions bool
}

// A Network is the kernel's links, routes and ip rules.
type Network struct {
	// Mode is WSL's networking mode, as the kernel shows it.
	Mode       netwatch.Mode
	Links      []netwatch.Link
	Prefixes   map[int][]netip.Prefix // by the index of the link
	Rules      []netwatch.Rule
	Routes     []netwatch.Route
	Neighbours []netwatch.Neighbour
	// Paths are the packets for which the kernel was asked for a route.
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

// A Conf is some sysctls of a link, below net.ipv4.conf.
type Conf struct{ RPFilter, AcceptLocal, RouteLocalnet int }

// A Ruleset is the part of the ruleset that the checks need.
type Ruleset struct {
	Ours      nft.OurTable
	Published []ruleset.Published
	// Present are our rules in the tables of others. Missing are those that
	// should be ahead of drops there.
	Present, Missing []nft.ForeignRule
	// Walks are the requests that were followed through all rules and back.
	Walks []Walk
	// Unfollowed is the number of requests for which there was no time.
	Unfollowed int
	// WSL are WSL's own chains.
	WSL []ruleset.WSLChain
	// Reserved is the block that WSL has reserved in Windows, according to WSL's own rule.
	Reserved ports.Range
	// Passes says that the engine itself lets loopback0 pass. It means nothing
	// if PassesKnown is false.
	Passes, PassesKnown bool
	// Docker, UFW and Firewalld say that their chains or tables exist.
	Docker, UFW, Firewalld bool
	// Gist says that there is a chain ip nat WSLPREROUTING, which is not ours.
	Gist bool
}

// A Walk is a request, and the result of trace.Observation.AskOn for it.
type Walk struct {
	trace.Question
	Traces []trace.Trace
}

// A Program is a process that runs in this network.
type Program struct {
	PID  int
	Name string // as in /proc/PID/comm
	Args []string
	// Sure says that it is certainly in this network.
	Sure bool
	// Service says that it is systemd's wslmirror.service.
	Service bool
}

// Docker is the observed state of Docker.
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

// Podman is the observed state of Podman.
type Podman struct {
	Present bool
	// Version is "" if no check needs it: asking takes a quarter of a second of CPU.
	Version Seen[string]
	// ForceListen is force_port_listen of containers.conf.
	ForceListen Seen[bool]
}

// link is loopback0. It is not Present if there is none.
func (o *Observation) link() netwatch.Link { return netwatch.Find(o.Net.Value.Links, o.Iface) }

// shared reports whether Windows and Linux share localhost, or should. The link
// shows it. If the link is missing, wslinfo does.
func (o *Observation) shared() bool {
	return o.link().Present() || o.Guest.Mode == "mirrored" || o.Net.Err != nil
}

// consomme reports whether the mode is consomme, which has no chains, block and addresses
// of the LAN. It uses wslinfo only if the kernel could not be asked.
func (o *Observation) consomme() bool {
	if o.Net.Err != nil {
		return o.Guest.Mode == "consomme" || o.Guest.Mode == "virtioproxy"
	}
	return o.Net.Value.Mode == netwatch.Consomme
}

// nics are the links that WSL mirrors, according to its own ip rules, without loopback0.
func (o *Observation) nics() (names []string) {
	for _, r := range o.Net.Value.Rules {
		if r.Priority == 0 && r.Iif != "" && r.Iif != o.Iface && r.Table == unix.RT_TABLE_LOCAL && (r.IPProto == unix.IPPROTO_TCP || r.IPProto == unix.IPPROTO_UDP) {
			names = add(names, r.Iif)
		}
	}
	return names
}

// programs are the programs of that name. If some are certainly in this network, the
// others are not counted: a process that is about to end has no network any more.
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

// runs reports whether a program of that name is running.
func (o *Observation) runs(name string) bool { return len(o.programs(name)) > 0 }

// active reports whether a wslmirror is active in this network, as far as is known,
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

// published are the ports that engines publish, according to the ruleset or, if that
// cannot be read, to the daemon.
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

// add appends item unless the list contains it.
func add[T comparable](to []T, item T) []T {
	if slices.Contains(to, item) {
		return to
	}
	return append(to, item)
}
