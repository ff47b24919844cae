package chaos

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// An engine is a stand-in for a container engine: docker, whose proxy serves
// localhost, podman, for which the kernel does, or CNI's portmap, which does not even
// bind what it publishes. It writes the whole of its
// rules anew whenever something changes.
type engine struct {
	w     *world
	proxy bool
	rules bool // they are in the kernel
	// table and chain are where those of an engine without a proxy are.
	table, chain string
	of           *engine // whose containers it publishes, nil for its own
	bridges      []*bridge
	ports        []*port
}

type bridge struct {
	name       string
	addr       netip.Prefix
	there, up  bool
	open       bool // route_localnet is on whatever wslmirror does
	containers []*container
}

type container struct {
	host    *lab.Host
	veth    string
	bridge  *bridge
	addr    netip.Prefix
	plugged bool
}

// A port is one that may be published.
type port struct {
	engine *engine
	proto  string
	addr   string // on which it is published
	number uint16
	to     *container // nil: it is not published
	open   io.Closer  // what binds it
	// program is another program that has taken the port; nil: none.
	program io.Closer
}

// Addresses on which ports are published.
const (
	anyAddr   = "0.0.0.0"
	localhost = "127.0.0.1"
	lanAddr   = "192.0.2.2"
)

// mirrored reports whether the port is one of 127.0.0.1.
func (p *port) mirrored() bool { return p.to != nil && p.addr != lanAddr }

// excepted reports whether the daemons leave the port alone.
func (p *port) excepted() bool {
	return p.engine.w.excepts() && slices.Contains(exceptedPorts, p.number)
}

func (p *port) release() (err error) {
	if p.open != nil {
		err = p.open.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		err = nil // a connection has just ended by itself
	}
	p.open, p.to = nil, nil
	return err
}

func (w *world) buildEngines() error {
	w.docker = &engine{w: w, proxy: true, rules: true}
	w.podman = &engine{w: w, rules: true, table: "inet netavark", chain: "HOSTPORT"}
	for _, b := range []struct {
		engine *engine
		bridge *bridge
		n      int
	}{
		{w.docker, &bridge{name: "docker0", addr: netip.MustParsePrefix("172.17.0.1/16")}, 2},
		{w.docker, &bridge{name: "br-second", addr: netip.MustParsePrefix("172.18.0.1/16")}, 1},
		{w.podman, &bridge{name: "podman0", addr: netip.MustParsePrefix("10.88.0.1/16"), open: true}, 1},
	} {
		b.engine.bridges = append(b.engine.bridges, b.bridge)
		for i := range b.n {
			c := &container{
				bridge: b.bridge, veth: fmt.Sprintf("%s-%d", strings.TrimSuffix(b.bridge.name, "0"), i),
				addr: netip.PrefixFrom(b.bridge.addr.Addr(), b.bridge.addr.Bits()),
			}
			for range i + 1 {
				c.addr = netip.PrefixFrom(c.addr.Addr().Next(), c.addr.Bits())
			}
			var err error
			if c.host, err = w.bench.AddContainer(c.veth); err != nil {
				return err
			}
			b.bridge.containers = append(b.bridge.containers, c)
		}
		if err := b.engine.create(b.bridge); err != nil {
			return err
		}
	}
	for i, addr := range []string{anyAddr, anyAddr, localhost, lanAddr, anyAddr, localhost, anyAddr, localhost} {
		w.docker.ports = append(w.docker.ports, &port{engine: w.docker, proto: []string{"tcp", "udp"}[i%2], addr: addr, number: uint16(8080 + i)})
	}
	for i, addr := range []string{anyAddr, anyAddr, localhost} {
		w.podman.ports = append(w.podman.ports, &port{engine: w.podman, proto: []string{"tcp", "udp"}[i%2], addr: addr, number: uint16(9180 + i)})
	}
	if w.holds() {
		w.cni = &engine{w: w, rules: true, table: "ip cni", chain: "CNI-HOSTPORT-DNAT", of: w.podman}
		for i, number := range []uint16{290, 9281, 9282, 9283} {
			w.cni.ports = append(w.cni.ports, &port{engine: w.cni, proto: []string{"tcp", "udp"}[i%2], addr: []string{anyAddr, localhost}[i/2], number: number})
		}
	}
	for _, e := range w.engines() {
		for i, p := range e.ports {
			if i%4 < 2 {
				if err := p.publish(e.plugged()[0]); err != nil {
					return err
				}
			}
		}
		if err := e.write(); err != nil {
			return err
		}
	}
	return nil
}

// create makes a network, with its containers.
func (e *engine) create(b *bridge) error {
	if err := e.w.bench.AddBridge(b.name, b.addr); err != nil {
		return err
	}
	link, err := e.w.bench.WSL.Net.LinkByName(b.name)
	if err != nil {
		return err
	}
	// The engines set it. Otherwise it is that of one of the containers' links, and
	// changes when that one goes.
	mac := append(net.HardwareAddr{0x02, 0x42}, b.addr.Addr().AsSlice()...)
	if err := e.w.bench.WSL.Net.LinkSetHardwareAddr(link, mac); err != nil {
		return err
	}
	b.there, b.up, b.open = true, true, !e.proxy
	if b.open {
		if err := e.w.sysctl(b.name, "route_localnet", true); err != nil {
			return err
		}
	}
	for _, c := range b.containers {
		if err := e.plug(c); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a network, with its containers.
func (e *engine) remove(b *bridge) error {
	for _, c := range b.containers {
		if err := e.unplug(c); err != nil {
			return err
		}
	}
	b.there, b.up, b.open = false, false, false
	return e.w.bench.RemoveLink(b.name)
}

func (e *engine) plug(c *container) error {
	if err := e.w.bench.Plug(c.host, c.veth, c.bridge.name, c.addr, c.bridge.addr.Addr()); err != nil {
		return err
	}
	c.plugged = true
	return e.w.bench.AwaitContainer(c.addr.Addr())
}

// unplug takes a container away, and first what it publishes.
func (e *engine) unplug(c *container) error {
	if !c.plugged {
		return nil
	}
	e.w.cut(func(a way) bool { return a.from == c.host || a.port != nil && a.port.to == c })
	for _, p := range e.ports {
		if p.to == c {
			if err := p.release(); err != nil {
				return err
			}
		}
	}
	if err := e.write(); err != nil {
		return err
	}
	c.plugged = false
	return e.w.bench.RemoveLink(c.veth)
}

// publish binds a port. Its rules come with write.
func (p *port) publish(to *container) (err error) {
	for deadline := time.Now().Add(lab.Scaled(10 * time.Second)); time.Now().Before(deadline); {
		// The socket that had it may not be closed yet.
		if err = p.bind(to); !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

func (p *port) bind(to *container) (err error) {
	at := netip.AddrPortFrom(netip.MustParseAddr(p.addr), p.number).String()
	switch {
	case p.engine == p.engine.w.cni:
	case p.engine.proxy:
		p.open, err = p.engine.w.bench.WSL.Proxy(p.proto, at, netip.AddrPortFrom(to.addr.Addr(), 80).String())
	default:
		p.open, err = p.engine.w.bench.WSL.Hold(p.proto, at)
	}
	if err == nil {
		p.to = to
	}
	return err
}

// published are the ports that are, and free those that are not.
func (e *engine) published() []*port { return e.those(func(p *port) bool { return p.to != nil }) }
func (e *engine) free() []*port      { return e.those(func(p *port) bool { return p.to == nil }) }

func (e *engine) those(ok func(*port) bool) (ports []*port) {
	for _, p := range e.ports {
		if ok(p) {
			ports = append(ports, p)
		}
	}
	return ports
}

// plugged are the containers that can serve.
func (e *engine) plugged() (list []*container) {
	if e.of != nil {
		return e.of.plugged()
	}
	for _, b := range e.bridges {
		for _, c := range b.containers {
			if c.plugged && b.up {
				list = append(list, c)
			}
		}
	}
	return list
}

// sysctl sets one of a link of WSL, or of "all".
func (w *world) sysctl(link, key string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return w.bench.WSL.Sysctl("ipv4/conf/"+link+"/"+key, value)
}

// pick chooses one.
func pick[T any](w *world, from []T) T { return from[w.rng.IntN(len(from))] }

// allBridges are those of all engines.
func (w *world) allBridges() (list []*bridge) {
	for _, e := range w.engines() {
		list = append(list, e.bridges...)
	}
	return list
}
