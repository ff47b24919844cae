package lab

import "net/netip"

// An Engine is a real container engine: [Docker] or [Podman].
type Engine interface {
	// Run starts a container that answers with its name on TCP and UDP port
	// 80, and waits until it does. It is published as the option --publish of
	// either command line says, for example "8080:80" or
	// "127.0.0.1:8080:80/udp".
	Run(name string, publish ...string) (*Container, error)
	// RunWith is Run with options as either command line has them.
	RunWith(name string, options ...string) (*Container, error)
	// Enter returns a container as a host, for clients in it, and the names in its
	// /etc/hosts. The host ends with the engine's.
	Enter(c *Container) (*Host, map[string]netip.Addr, error)
	// Remove ends a container and forgets it.
	Remove(name string) error
	// CLI runs the engine's own command line and returns what it printed.
	CLI(args ...string) (string, error)
	// Close ends the engine and its containers. Its rules and its bridge stay.
	Close() error
}

// An EngineKind is an engine with its settings.
type EngineKind struct {
	Name  string
	Start func(*Host) (Engine, error)
}

// Engines are the kinds of engine that differ in what they do to a packet.
// "docker-20.10" is Debian 12's, "docker" a current one.
var Engines = []EngineKind{
	{"docker-20.10", func(h *Host) (Engine, error) { return engine(h.StartDocker()) }},
	{"docker-20.10-noproxy", func(h *Host) (Engine, error) { return engine(h.StartDocker(noProxy)) }},
	{"docker-iptables", func(h *Host) (Engine, error) { return engine(h.StartMoby()) }},
	{"docker-iptables-noproxy", func(h *Host) (Engine, error) { return engine(h.StartMoby(noProxy)) }},
	{"docker-nftables", func(h *Host) (Engine, error) { return engine(h.StartMoby(nftablesBackend)) }},
	{"docker-nftables-noproxy", func(h *Host) (Engine, error) { return engine(h.StartMoby(nftablesBackend, noProxy)) }},
	{"podman-netavark", func(h *Host) (Engine, error) { return engine(h.StartPodman(Netavark)) }},
	{"podman-netavark-nftables", func(h *Host) (Engine, error) { return engine(h.StartPodman(NetavarkNFT)) }},
	{"podman-cni", func(h *Host) (Engine, error) { return engine(h.StartPodman(CNI)) }},
}

// Flags of dockerd.
const (
	noProxy         = "--userland-proxy=false"
	nftablesBackend = "--firewall-backend=nftables" // of a current one
)

// engine is what a Start method of a Host returned, with no engine as a nil Engine.
func engine[E Engine](e E, err error) (Engine, error) {
	if err != nil {
		return nil, err
	}
	return e, nil
}
