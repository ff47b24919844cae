package hold

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
)

// A Port is one of TCP or UDP.
type Port struct {
	Proto  string // tcp or udp
	Number uint16
}

// String is p for people, like 8080/tcp.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Proto) }

// name is p as a name that systemd keeps a socket under, like tcp-8080.
func (p Port) name() string { return fmt.Sprintf("%s-%d", p.Proto, p.Number) }

func parseName(name string) (p Port, ok bool) {
	proto, number, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(number, 10, 16)
	return Port{proto, uint16(n)}, err == nil && n != 0 && (proto == "tcp" || proto == "udp")
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Proto, b.Proto))
}

// dns is a port that WSL never sends to Linux, whoever has it.
const dns = 53

// consomme is the mode in which Windows listens on the very address that is bound. It
// is netwatch's word for it.
const consomme = "consomme"

// decide says which ports are to be held: those that engines have the kernel serve on
// localhost, and of which Windows learns by no socket. taken are those of which it does.
// It is a pure function. sockets are all that wait, those of the holder among them.
func decide(s status.Snapshot, sockets []sockdiag.Socket) (want, taken []Port) {
	for _, p := range published(s) {
		port := Port{p.Proto, p.Port}
		switch {
		case slices.Contains(want, port) || slices.Contains(taken, port):
		case slices.ContainsFunc(sockets, func(k sockdiag.Socket) bool { return announces(k, p, s.Mode == consomme) }):
			taken = append(taken, port)
		default:
			want = append(want, port)
		}
	}
	return want, taken
}

// published are the ports that have to be held by somebody.
func published(s status.Snapshot) (list []status.Port) {
	if s.State != status.Active {
		return nil
	}
	for _, p := range s.Ports {
		switch {
		case p.Path != status.PathKernel && p.Path != status.PathDirect:
			// A proxy serves it, and listens. Where it does not, a held port would only
			// make clients of Windows wait.
		case p.Reason == status.Excepted, !p.ByEngine():
		case s.Mode != consomme && (p.Port == dns || s.SourcePorts != nil && s.SourcePorts.Contains(p.Port)):
			// Windows sends the block to Linux in any case, and the other in none.
		default:
			list = append(list, p)
		}
	}
	return list
}

// engineOf is the engine that publishes p.
func engineOf(s status.Snapshot, p Port) string {
	i := slices.IndexFunc(s.Ports, func(q status.Port) bool { return q.Proto == p.Proto && q.Port == p.Number })
	if i < 0 {
		return ""
	}
	return s.Ports[i].Engine
}

// binds reports whether the engine that publishes p binds its ports itself, which it may
// do after it has written its rules. Docker does, and then docker-proxy cannot have a port
// of UDP on [::] that a holder has; Podman 6 binds without SO_REUSEADDR (libpod's
// oci_util.go), and then cannot have any.
func binds(s status.Snapshot, p Port) bool {
	engine := engineOf(s, p)
	return engine == "docker" || engine == podman
}

const podman = "podman"

// announces reports whether Windows learns by k of a port that is published. That of the
// holder itself never does: one of TCP is connected, one of UDP too.
func announces(k sockdiag.Socket, p status.Port, consomme bool) bool {
	switch {
	case k.Proto != p.Proto || k.Local.Port() != p.Port || k.MPTCP:
		return false
	case k.Proto == "udp" && k.State != sockdiag.Closed: // connected
		return false
	}
	on := k.Local.Addr()
	if consomme {
		return on == netip.IPv4Unspecified() || on == localhost4
	}
	return on.IsUnspecified() && !(on.Is6() && k.OnlyV6) || on == localhost4 || on.String() == p.Address
}

// IsHolder reports whether k is a socket of a holder, in whichever distribution: nobody
// else connects one to itself, or one of 127.0.0.1 to the address peer, which then ends.
func IsHolder(k sockdiag.Socket) bool {
	if !k.Local.Addr().IsLoopback() {
		return false
	}
	return k.State == sockdiag.Established && k.Local == k.Remote ||
		k.State == sockdiag.CloseWait && k.Local.Addr() == localhost4 && k.Remote.Addr() == peer
}

// has reports whether one of sockets has a port.
func has(sockets []sockdiag.Socket, p Port) bool {
	return slices.ContainsFunc(sockets, func(k sockdiag.Socket) bool { return k.Proto == p.Proto && k.Local.Port() == p.Number })
}

// hasIPv6 reports whether one has it so that nobody else can have it on [::1].
func hasIPv6(sockets []sockdiag.Socket, p Port) bool {
	return slices.ContainsFunc(sockets, func(k sockdiag.Socket) bool {
		return k.Proto == p.Proto && k.Local.Port() == p.Number && k.Local.Addr().Is6()
	})
}
