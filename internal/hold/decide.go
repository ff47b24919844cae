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

// A Port is a TCP or UDP port.
type Port struct {
	Proto  string // tcp or udp
	Number uint16
}

// String returns p as users write it, like 8080/tcp.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Proto) }

// name returns the name under which systemd keeps the port's socket, like tcp-8080.
func (p Port) name() string { return fmt.Sprintf("%s-%d", p.Proto, p.Number) }

func parseName(name string) (p Port, ok bool) {
	proto, number, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(number, 10, 16)
	p = Port{proto, uint16(n)}
	return p, err == nil && n != 0 && (proto == "tcp" || proto == "udp") && p.name() == name
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Proto, b.Proto))
}

// dns is a port that WSL never sends to Linux, whatever socket is bound to it.
const dns = 53

// consomme is the mode in which Windows listens on the same address that is bound in Linux.
// It is netwatch's name for it.
const consomme = "consomme"

// decide returns the ports to hold. The kernel serves them on localhost by an engine's
// rules, and no socket announces them to Windows. taken are the ports that a socket does
// announce. sockets are all sockets that wait, including the holder's. decide is a pure
// function.
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

// published returns the ports that need a socket, whoever has it.
func published(s status.Snapshot) (list []status.Port) {
	if s.State != status.Active {
		return nil
	}
	for _, p := range s.Ports {
		switch {
		case p.Path != status.PathKernel && p.Path != status.PathDirect:
			// A proxy serves the port, and listens on it. If no proxy listens, holding the
			// port would only make clients in Windows wait.
		case p.Reason == status.Excepted, !p.ByEngine():
		case s.Mode != consomme && (p.Port == dns || s.SourcePorts != nil && s.SourcePorts.Contains(p.Port)):
			// Windows always sends the reserved block to Linux, and never sends port 53.
		default:
			list = append(list, p)
		}
	}
	return list
}

// engineOf returns the engine that publishes p.
func engineOf(s status.Snapshot, p Port) string {
	i := slices.IndexFunc(s.Ports, func(q status.Port) bool { return q.Proto == p.Proto && q.Port == p.Number })
	if i < 0 {
		return ""
	}
	return s.Ports[i].Engine
}

// binds reports whether the engine that publishes p also binds it, perhaps after it has
// installed its rules. Docker does; docker-proxy then cannot bind a UDP port on [::] if a
// holder has it. Podman 6 binds without SO_REUSEADDR (libpod's oci_util.go), so it cannot
// bind any port that a holder has.
func binds(s status.Snapshot, p Port) bool {
	engine := engineOf(s, p)
	return engine == "docker" || engine == podman
}

const podman = "podman"

// announces reports whether k, which waits for clients, announces the published port p to
// Windows. A holder's sockets are connected, so they are not among those.
func announces(k sockdiag.Socket, p status.Port, consomme bool) bool {
	switch {
	case k.Proto != p.Proto || k.Local.Port() != p.Port || k.MPTCP:
		return false
	}
	on := k.Local.Addr()
	if consomme {
		return on == netip.IPv4Unspecified() || on == localhost4
	}
	return on.IsUnspecified() && !(on.Is6() && k.OnlyV6) || on == localhost4 || on.String() == p.Address
}

// IsHolder reports whether k is a holder's socket, in any distribution. No other program
// connects a socket to itself, or one on 127.0.0.1 to a listener on peer that then closes.
func IsHolder(k sockdiag.Socket) bool {
	if !k.Local.Addr().IsLoopback() {
		return false
	}
	return k.State == sockdiag.Established && k.Local == k.Remote ||
		k.State == sockdiag.CloseWait && k.Local.Addr() == localhost4 && k.Remote.Addr() == peer
}

// hasAny reports whether a socket of any kind has the port p: a connection holds one too.
func hasAny(p Port) bool {
	sockets, _ := sockdiag.Sockets() // those that could be listed
	return slices.ContainsFunc(sockets, func(k sockdiag.Socket) bool { return k.Proto == p.Proto && k.Local.Port() == p.Number })
}

// hasIPv6 reports whether an IPv6 socket has p, which may be why it cannot be had on [::1].
func hasIPv6(sockets []sockdiag.Socket, p Port) bool {
	return slices.ContainsFunc(sockets, func(k sockdiag.Socket) bool {
		return k.Proto == p.Proto && k.Local.Port() == p.Number && k.Local.Addr().Is6()
	})
}
