package field

import (
	"fmt"
	"net/netip"

	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Client is who sends requests.
type Client string

// The clients, beside containers.
const (
	Linux   Client = "Linux"
	Windows Client = "Windows"
)

// containerOf is the container of an engine that is a client.
func containerOf(engine string) Client { return Client("a container of " + engine) }

// The columns of a report.
const (
	without = iota
	with
	columns
)

// A Question is a client, and a server of which it wants an answer.
type Question struct {
	From  Client         `json:"from"`
	To    string         `json:"to"` // in words
	Proto string         `json:"proto"`
	At    netip.AddrPort `json:"at"`
	// Want is the server's name, "" where nobody serves.
	Want string `json:"-"`
	// Bench is what the bench shows, without wslmirror and with it.
	Bench [columns]Outcomes `json:"-"`
}

func (q Question) String() string { return fmt.Sprintf("%s → %s, %s", q.From, q.To, q.Proto) }

// A Site is what there is to be asked.
type Site struct {
	Mode netwatch.Mode
	LAN  netip.Addr // the own address of the LAN, invalid if there is none

	Linux  uint16       // on all addresses
	Closed uint16       // nobody has it
	Named  windowsPorts // of Windows' 127.0.0.1; zero: there is no such server
	Hidden windowsPorts // the same, which --to-windows does not name

	Engines []Engine
	// Published are the ports of containers as the ruleset has them.
	Published []ruleset.Published
	// Passes says that the engine lets what arrives on loopback0 pass to its proxy.
	Passes bool
}

// windowsPorts are of one server, by protocol.
type windowsPorts struct{ tcp, udp uint16 }

// An Engine is a container engine with containers of ours.
type Engine struct {
	Name       string      `json:"name"`
	Version    string      `json:"version"`
	NotChecked string      `json:"not_checked,omitempty"` // why there are no containers
	Containers []Container `json:"containers,omitempty"`

	imported bool // there may be an image of ours
}

// A Container is one of ours. It answers on TCP and UDP with its name.
type Container struct {
	Name    string     `json:"name"`
	On      netip.Addr `json:"on"` // where it is published
	Port    uint16     `json:"port"`
	Gateway netip.Addr `json:"-"`
	pid     int
}

// plan is all questions that the bench knows an answer to.
func (s *Site) plan() (list []Question) {
	ask := func(from Client, to, proto string, at netip.Addr, port uint16, want string, bench [columns]Outcomes) {
		if port != 0 && at.IsValid() {
			list = append(list, Question{from, to, proto, netip.AddrPortFrom(at, port), want, bench})
		}
	}
	both := func(from Client, to string, at netip.Addr, port windowsPorts, want string, bench func(proto string) [columns]Outcomes) {
		ask(from, to, "TCP", at, port.tcp, want, bench("TCP"))
		ask(from, to, "UDP", at, port.udp, want, bench("UDP"))
	}
	always := func(string) [columns]Outcomes { return [columns]Outcomes{answers, answers} }
	same := func(p uint16) windowsPorts { return windowsPorts{p, p} }
	hal := s.Mode == netwatch.MirroredHAL

	both(Windows, "a server of Linux", ruleset.Localhost, same(s.Linux), string(Linux), always)
	both(Linux, "a server of Linux", ruleset.Localhost, same(s.Linux), string(Linux), always)
	both(Linux, "a server of Windows", ruleset.Localhost, s.Named, string(Windows), always)
	for _, e := range s.Engines {
		for _, c := range e.Containers {
			to := fmt.Sprintf("%s, published on %s", e.Name, c.On)
			both(Windows, to, ruleset.Localhost, same(c.Port), c.Name, func(proto string) [columns]Outcomes {
				return [columns]Outcomes{s.published(e, c, proto, Windows), answers}
			})
			both(Linux, to, ruleset.Localhost, same(c.Port), c.Name, func(proto string) [columns]Outcomes {
				return [columns]Outcomes{s.published(e, c, proto, Linux), answers}
			})
			if !c.On.IsUnspecified() {
				continue
			}
			both(Linux, to+", by the LAN address", s.LAN, same(c.Port), c.Name, func(string) [columns]Outcomes {
				if hal {
					return [columns]Outcomes{fails, answers}
				}
				return always("")
			})
			if hal {
				both(Windows, to+", by the LAN address", s.LAN, same(c.Port), c.Name, always)
			}
			inside := containerOf(e.Name)
			both(inside, "a server of Windows that --to-windows names", c.Gateway, s.Named, string(Windows), func(string) [columns]Outcomes {
				return [columns]Outcomes{fails, answers}
			})
			both(inside, "a server of Windows that it does not name", c.Gateway, s.Hidden, string(Windows), func(string) [columns]Outcomes {
				return [columns]Outcomes{fails, fails}
			})
			ask(inside, "a server of Linux", "TCP", c.Gateway, s.Linux, string(Linux), always(""))
		}
	}
	if hal {
		ask(Windows, "a server of Linux, by the LAN address", "TCP", s.LAN, s.Linux, string(Linux), always(""))
	}
	closed := [columns]Outcomes{{NoAnswer}, {Late}}
	if s.Mode == netwatch.Consomme {
		closed = [columns]Outcomes{{Refused}, {Refused}}
	}
	ask(Linux, "a closed port", "TCP", ruleset.Localhost, s.Closed, "", closed)
	// Windows' own clients try again before they give up.
	ask(Windows, "a closed port", "TCP", ruleset.Localhost, s.Closed, "", [columns]Outcomes{refuses, refuses})
	return list
}

// published is what the bench shows without wslmirror: the table of docs/bench.md, by
// what tells its engines apart. It is nothing where the ruleset does not have the port.
func (s *Site) published(e Engine, c Container, proto string, from Client) Outcomes {
	i := -1
	for j, p := range s.Published {
		if p.Port.Number == c.Port && p.Port.ProtoName() == goName(proto) {
			i = j
		}
	}
	if i < 0 {
		return nil
	}
	// A current Docker that started before loopback0 was there drops what it
	// publishes on 127.0.0.1, from wherever it comes.
	dropsLocal := e.Name == "docker" && major(e.Version) >= 28 && !c.On.IsUnspecified()
	switch served := s.Published[i].EngineServed; {
	case served && from == Linux:
		return fails
	case served && dropsLocal:
		return nil // whether it drops cannot be told from here
	case served:
		return answers
	case s.Passes:
		return answers
	case from == Windows || dropsLocal:
		return fails
	}
	return answers
}

// major is the first number of a version, 0 if there is none.
func major(version string) (n int) {
	fmt.Sscanf(version, "%d", &n)
	return n
}
