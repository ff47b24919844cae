package lab

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const (
	docker0     = "docker0"
	dockerChain = "DOCKER"

	// containerPort is where the container serves, on TCP and UDP.
	containerPort = 80
)

// Docker's default network and the first address that it gives.
var (
	bridgeAddr    = netip.MustParsePrefix("172.17.0.1/16")
	containerAddr = netip.MustParsePrefix("172.17.0.2/16")
)

// A StandIn does to the network what Docker 20.10 does, with one container and
// the userland proxy, and needs nothing but a kernel. Docker's rules in the
// filter table are not here: they let pass whatever is published.
type StandIn struct {
	// Container answers with the name "container".
	Container *Host
	Addr      netip.Addr // its own address, on docker0

	bench *Bench
	wsl   *Host // the bench's
}

// StartStandIn starts the stand-in engine in WSL with its container, and waits
// until the container answers on its own address.
func (b *Bench) StartStandIn() (*StandIn, error) {
	container, err := b.AddContainer("container")
	if err != nil {
		return nil, err
	}
	s := &StandIn{Container: container, Addr: containerAddr.Addr(), bench: b, wsl: b.WSL}
	if err := s.start(); err != nil {
		return nil, explain(fmt.Errorf("start the stand-in engine: %w", err))
	}
	return s, nil
}

func (s *StandIn) start() error {
	if err := s.wsl.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if err := s.connect(); err != nil {
		return err
	}
	if err := s.addChains(); err != nil {
		return err
	}
	return s.bench.AwaitContainer(s.Addr)
}

// connect makes docker0 and joins the container to it.
func (s *StandIn) connect() error {
	if err := s.bench.AddBridge(docker0, bridgeAddr); err != nil {
		return err
	}
	return s.bench.Plug(s.Container, "veth0", docker0, containerAddr, bridgeAddr.Addr())
}

// addChains writes what dockerd writes to the table "ip nat" when it starts.
func (s *StandIn) addChains() error {
	c, err := s.wsl.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	accept := nftables.ChainPolicyAccept
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
	docker := c.AddChain(&nftables.Chain{Name: dockerChain, Table: table})
	addRules(c, docker, [][]expr.Any{match(expr.MetaKeyIIFNAME, ifname(docker0)), counter(), {&expr.Verdict{Kind: expr.VerdictReturn}}})

	for _, chain := range []struct {
		name     string
		hook     *nftables.ChainHook
		priority *nftables.ChainPriority
		rule     [][]expr.Any
	}{
		{"POSTROUTING", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, [][]expr.Any{
			matchNot(expr.MetaKeyOIFNAME, ifname(docker0)), matchAddr(saddr, expr.CmpOpEq, bridgeAddr), counter(), {&expr.Masq{}},
		}},
		{"PREROUTING", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, [][]expr.Any{
			matchLocal(), counter(), jump(dockerChain),
		}},
		// With the userland proxy, what Linux sends to its own 127.0.0.1 is
		// the proxy's.
		{"OUTPUT", nftables.ChainHookOutput, nftables.ChainPriorityNATDest, [][]expr.Any{
			matchAddr(daddr, expr.CmpOpNeq, netip.MustParsePrefix("127.0.0.0/8")), matchLocal(), counter(), jump(dockerChain),
		}},
	} {
		addRules(c, c.AddChain(&nftables.Chain{
			Name: chain.name, Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: chain.hook, Priority: chain.priority, Policy: &accept,
		}), chain.rule)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add Docker's chains: %w", err)
	}
	return nil
}

// Publish publishes the container on an address and a port of WSL, for example
// "0.0.0.0:8080": proto is "tcp" or "udp". It lasts as long as the bench.
func (s *StandIn) Publish(proto, addr string) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	p, err := newProxy(s.wsl, proto, addr, netip.AddrPortFrom(s.Addr, containerPort).String())
	if err != nil {
		return fmt.Errorf("publish %s %s: %w", proto, addr, err)
	}
	s.wsl.keep(p)
	return s.addRules(proto, at)
}

// addRules writes what dockerd writes to the table "ip nat" for a port.
func (s *StandIn) addRules(proto string, at netip.AddrPort) error {
	c, err := s.wsl.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"}
	toAddr := []expr.Any{}
	if !at.Addr().IsUnspecified() {
		toAddr = matchAddr(daddr, expr.CmpOpEq, single(at.Addr()))
	}
	protocol := match(expr.MetaKeyL4PROTO, l4proto(proto))
	addRules(c, &nftables.Chain{Name: dockerChain, Table: table}, [][]expr.Any{
		matchNot(expr.MetaKeyIIFNAME, ifname(docker0)), toAddr, protocol, matchPort(at.Port()), counter(), {
			&expr.Immediate{Register: 1, Data: s.Addr.AsSlice()},
			&expr.Immediate{Register: 2, Data: be16(containerPort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nftables.TableFamilyIPv4), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		},
	})
	// The container that calls its own published port.
	addRules(c, &nftables.Chain{Name: "POSTROUTING", Table: table}, [][]expr.Any{
		matchAddr(saddr, expr.CmpOpEq, single(s.Addr)), matchAddr(daddr, expr.CmpOpEq, single(s.Addr)),
		protocol, matchPort(containerPort), counter(), {&expr.Masq{}},
	})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add Docker's rules for %s %s: %w", proto, at, err)
	}
	return nil
}
