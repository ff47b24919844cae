package hold

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
)

func TestDecide(t *testing.T) {
	port := func(change ...func(*status.Port)) status.Port {
		p := status.Port{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Engine: "cni", Path: status.PathKernel}
		for _, c := range change {
			c(&p)
		}
		return p
	}
	active := func(ports ...status.Port) status.Snapshot {
		return status.Snapshot{State: status.Active, Mode: "mirrored", Ports: ports, SourcePorts: &status.PortRange{First: 60700, Last: 60999}}
	}
	in := func(mode string, s status.Snapshot) status.Snapshot { s.Mode = mode; return s }
	socket := func(proto string, state uint8, at string, change ...func(*sockdiag.Socket)) sockdiag.Socket {
		s := sockdiag.Socket{Proto: proto, State: state, Local: netip.MustParseAddrPort(at)}
		for _, c := range change {
			c(&s)
		}
		return s
	}
	onlyV6 := func(s *sockdiag.Socket) { s.OnlyV6 = true }
	mptcp := func(s *sockdiag.Socket) { s.MPTCP = true }
	number := func(n uint16) func(*status.Port) { return func(p *status.Port) { p.Port = n } }
	path := func(path string) func(*status.Port) { return func(p *status.Port) { p.Path = path } }
	udp := func(p *status.Port) { p.Proto = "udp" }
	standby := active(port())
	standby.State = status.Standby
	const listens, closed = sockdiag.Listening, sockdiag.Closed
	for name, test := range map[string]struct {
		s           status.Snapshot
		sockets     []sockdiag.Socket
		want, taken string
	}{
		"by rules alone":        {active(port()), nil, "[8080/tcp]", "[]"},
		"UDP":                   {active(port(udp)), nil, "[8080/udp]", "[]"},
		"both":                  {active(port(), port(udp)), nil, "[8080/tcp 8080/udp]", "[]"},
		"twice":                 {active(port(), port(func(p *status.Port) { p.Address = "127.0.0.1" })), nil, "[8080/tcp]", "[]"},
		"direct":                {active(port(path(status.PathDirect))), nil, "[8080/tcp]", "[]"},
		"by a proxy":            {active(port(path(status.PathProxy))), nil, "[]", "[]"},
		"by no engine":          {active(port(func(p *status.Port) { p.Engine = "ip vpn" })), nil, "[]", "[]"},
		"excepted":              {active(port(func(p *status.Port) { p.Reason = status.Excepted })), nil, "[]", "[]"},
		"DNS":                   {active(port(number(53))), nil, "[]", "[]"},
		"DNS in consomme":       {in(consomme, active(port(number(53)))), nil, "[53/tcp]", "[]"},
		"in the block":          {active(port(number(60800))), nil, "[]", "[]"},
		"another daemon serves": {standby, nil, "[]", "[]"},
		"an engine listens":     {active(port()), []sockdiag.Socket{socket("tcp", listens, "0.0.0.0:8080")}, "[]", "[8080/tcp]"},
		"on both families":      {active(port()), []sockdiag.Socket{socket("tcp", listens, "[::]:8080")}, "[]", "[8080/tcp]"},
		"the same in consomme":  {in(consomme, active(port())), []sockdiag.Socket{socket("tcp", listens, "[::]:8080")}, "[8080/tcp]", "[]"},
		"on IPv6 alone":         {active(port()), []sockdiag.Socket{socket("tcp", listens, "[::]:8080", onlyV6)}, "[8080/tcp]", "[]"},
		"by MPTCP":              {active(port()), []sockdiag.Socket{socket("tcp", listens, "0.0.0.0:8080", mptcp)}, "[8080/tcp]", "[]"},
		"on another port":       {active(port()), []sockdiag.Socket{socket("tcp", listens, "0.0.0.0:8081")}, "[8080/tcp]", "[]"},
		"on another address":    {active(port()), []sockdiag.Socket{socket("tcp", listens, "127.0.0.2:8080")}, "[8080/tcp]", "[]"},
		"by the other protocol": {active(port()), []sockdiag.Socket{socket("udp", closed, "0.0.0.0:8080")}, "[8080/tcp]", "[]"},
		"bound, as of Podman 6": {active(port()), []sockdiag.Socket{socket("tcp", closed, "[::]:8080")}, "[]", "[8080/tcp]"},
		"a server of UDP":       {active(port(udp)), []sockdiag.Socket{socket("udp", closed, "127.0.0.1:8080")}, "[]", "[8080/udp]"},
	} {
		want, taken := decide(test.s, test.sockets)
		if got := fmt.Sprint(want, taken); got != test.want+" "+test.taken {
			t.Errorf("%s: %s, want %s %s", name, got, test.want, test.taken)
		}
	}
}

func TestNames(t *testing.T) {
	for _, p := range []Port{{"tcp", 1}, {"udp", 65535}} {
		if got, ok := parseName(p.name()); !ok || got != p {
			t.Errorf("%s is %v, %t", p.name(), got, ok)
		}
	}
	for _, name := range []string{"", "tcp", "tcp-", "tcp-0", "tcp-65536", "tcp-01", "sctp-1", "tcp-1-2", "stored"} {
		if p, ok := parseName(name); ok {
			t.Errorf("%q is %v", name, p)
		}
	}
}
