package doctor

import (
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
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
	// Iface is the link by which Windows' localhost comes.
	Iface string
	// Root says that this process may see everything.
	Root bool

	Release string // of the kernel
	WSLInfo bool   // there is a program wslinfo
	Systemd bool   // systemd is process 1
	// NFTables says that systemd starts nftables.service at boot.
	NFTables bool
	Mode     Seen[string]

	Links      Seen[[]netwatch.Link]
	Addrs      Seen[[]Addr]
	Rules      Seen[[]netwatch.Rule]
	Routes     Seen[[]Route]
	Neighbours Seen[[]Neighbour]
	Sysctls    Seen[map[string]Conf] // by link, and "all"

	Ruleset   Seen[Ruleset]
	Block     Seen[ports.Block]
	Listeners Seen[[]ports.Listener]
	Legacy    Seen[[]string] // the tables of iptables-legacy

	Status Seen[status.Snapshot]
	// Service is what systemd says, empty where it is not asked.
	Service Seen[Service]
	// Daemons is how many wslmirrors run in this network: the one that owns the
	// table, and those that stand by.
	Daemons Seen[int]
	// Programs are the processes that matter here.
	Programs Seen[[]Program]

	Docker  Docker
	Podman  Podman
	UFW     Seen[UFW]
	Trusted Seen[bool] // firewalld trusts loopback0, by its configuration
	// Unmanaged says that NetworkManager's configuration keeps it from loopback0.
	Unmanaged Seen[bool]
	WSLConfig Seen[WSLConfig]
}

// A Service is what systemd says of wslmirror.service.
type Service struct {
	// Trouble says why it does not run, "" if it has not failed.
	Trouble string
	// BadOptions says that it was refused for its options.
	BadOptions bool
}

// A WSLConfig is what of the Windows user's .wslconfig matters here.
type WSLConfig struct {
	Mode         string // networkingMode, "" if it is not there
	HostLoopback bool   // hostAddressLoopback
}

// An Addr is an address of a link.
type Addr struct {
	Link string
	Addr netip.Addr
}

// A Route is a route of IPv4.
type Route struct {
	Table uint32
	To    netip.Prefix
	Via   netip.Addr // invalid: none
	Link  string     // "": none, or several
	Type  uint8      // unix.RTN_*
}

// A Neighbour is an entry that tells the MAC address of a neighbour of IPv4.
type Neighbour struct {
	Link      string
	Addr      netip.Addr
	Permanent bool
}

// A Conf is sysctls of a link, below net.ipv4.conf.
type Conf struct{ RPFilter, AcceptLocal, RouteLocalnet int }

// A Ruleset is what of the ruleset matters here.
type Ruleset struct {
	State    nft.OurTable
	View     ruleset.Analysis
	Foreign  nft.ForeignRules
	Counters nft.Counters
	// Refusals are what filters drop of what comes from Windows.
	Refusals []ruleset.Refusal
	// WSL are WSL's own chains.
	WSL []ruleset.WSLChain
	// Reserved is the block that WSL has reserved in Windows, by its own rule.
	Reserved ports.Range
	// Passes says that an engine lets loopback0 pass by itself; it is of no worth
	// if PassesKnown is false.
	Passes, PassesKnown bool
	// Docker says that Docker's chains are there, Firewalld its table.
	Docker, Firewalld bool
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
	// Version is "" where there is no Podman.
	Version Seen[string]
	// ForceListen is force_port_listen of containers.conf.
	ForceListen Seen[bool]
}

// UFW is what was seen of ufw.
type UFW struct {
	Enabled bool
	// Allows says that a rule of the user's, or the policy, lets in what comes by
	// loopback0.
	Allows Seen[bool]
}

// link is loopback0, which is not Present if there is none.
func (o *Observation) link() netwatch.Link { return netwatch.Find(o.Links.Value, o.Iface) }

// mirrored reports whether the network is mirrored or should be. The link tells;
// wslinfo tells where the link is missing.
func (o *Observation) mirrored() bool {
	return o.link().Present() || o.Mode.Err == nil && o.Mode.Value == "mirrored" || o.Links.Err != nil
}

// wsl reports whether this is WSL.
func (o *Observation) wsl() bool {
	r := strings.ToLower(o.Release)
	return o.WSLInfo || strings.Contains(r, "microsoft") || strings.Contains(r, "wsl")
}

// oneHalf reports whether the mode is one that has loopback0 and no chains nor
// block of WSL's: consomme, which was called virtioproxy until WSL 2.9.
func (o *Observation) oneHalf() bool {
	return o.Mode.Err == nil && o.Mode.Value != "mirrored" && o.link().Present()
}

// nics are the links that WSL mirrors, by its own ip rules, without loopback0.
func (o *Observation) nics() (names []string) {
	for _, r := range o.Rules.Value {
		if r.Priority == 0 && r.Iif != "" && r.Iif != o.Iface && r.Table == unix.RT_TABLE_LOCAL &&
			r.IPProto == unix.IPPROTO_TCP && !slices.Contains(names, r.Iif) {
			names = append(names, r.Iif)
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
		return o.Ruleset.Value.State.Owner != 0
	}
	return o.Daemons.Err == nil && o.Daemons.Value > 0
}

// published are the ports that engines publish: by the ruleset, or where that
// cannot be seen by the word of the daemon.
func (o *Observation) published() Seen[[]Published] {
	var list []Published
	switch {
	case o.Ruleset.Err == nil:
		for _, p := range o.Ruleset.Value.View.Published {
			list = append(list, Published{p.Port.ProtoName(), p.Port.Number, p.Addr.String(), p.To.String(), p.Engine})
		}
	case o.Status.Err == nil && o.Status.Value.State == status.Active:
		for _, p := range o.Status.Value.Ports {
			list = append(list, Published{p.Proto, p.Port, p.Address, p.Target, p.Engine})
		}
	default:
		return Seen[[]Published]{Err: o.Ruleset.Err}
	}
	return Seen[[]Published]{Value: list}
}

// Published is a port that an engine publishes.
type Published struct {
	Proto  string
	Port   uint16
	On     string // the address on which it is published
	To     string
	Engine string
}
