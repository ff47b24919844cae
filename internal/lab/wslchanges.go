package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What WSL itself changes while it runs, message by message as its code does it
// (NetworkManager.cpp, IpRuleManager.cpp and GnsEngine.cpp), faults included.

// ReplugLoopback0 removes loopback0 and has WSL add it again. WSL deletes "preference
// 0, table local" without saying which, so the first rule of preference 0 goes, and
// adds its rules without looking whether they are there.
func (b *Bench) ReplugLoopback0() error {
	if err := b.RemoveLoopback0(); err != nil {
		return err
	}
	if err := b.plugLoopback0(); err != nil {
		return err
	}
	for _, r := range []wslRule{
		{remove: true, table: unix.RT_TABLE_LOCAL},
		{iif: loopback0, proto: unix.IPPROTO_TCP, table: unix.RT_TABLE_LOCAL},
		{iif: loopback0, proto: unix.IPPROTO_UDP, table: unix.RT_TABLE_LOCAL},
		{pref: 1, proto: unix.IPPROTO_TCP, table: loopbackTable},
		{pref: 1, proto: unix.IPPROTO_UDP, table: loopbackTable},
		{pref: 1, proto: unix.IPPROTO_TCP, table: localTable},
		{pref: 1, proto: unix.IPPROTO_UDP, table: localTable},
		{pref: 2, table: unix.RT_TABLE_LOCAL},
	} {
		if err := r.send(b.WSL); err != nil {
			return err
		}
	}
	return b.sendToWindows()
}

// AddNIC plugs in an interface that Windows mirrors. In consomme nothing is mirrored.
// WSL writes its masquerade rules first, and no ip rules if that fails: it fails
// without WSL's chains. That is no error of AddNIC.
func (b *Bench) AddNIC(name string, addr netip.Prefix) error {
	if err := connect(b.WSL, name, nil, b.LAN, name, nil); err != nil {
		return err
	}
	if err := b.addressNIC(name, addr); err != nil {
		return err
	}
	if b.mode == Consomme {
		return nil
	}
	if err := enableLoopbackRouting(b.WSL, name); err != nil {
		return err
	}
	if b.mode == MirroredHAL {
		if err := leaveBy(b.WSL, name, addr.Addr(), localTable, gatewayMAC); err != nil {
			return err
		}
	}
	return b.filterNIC(name)
}

// RemoveNIC unplugs an interface. WSL removes its rules first, and no ip rules if its
// chains are not there.
func (b *Bench) RemoveNIC(name string) error {
	if b.mode != Consomme {
		if err := b.unfilterNIC(name); err != nil {
			return err
		}
	}
	return b.RemoveLink(name)
}

// ChangeBlock gives Linux another block of source ports: WSL's rules of an interface
// are removed and added again. WSL at 3e27a6a50 has the code and does so only when
// it starts.
func (b *Bench) ChangeBlock(first, last uint16, nics ...string) error {
	if b.mode == Consomme {
		return errors.New("consomme has no block of ports")
	}
	b.FirstPort, b.LastPort = first, last
	if err := b.WSL.Sysctl("ipv4/ip_local_port_range", fmt.Sprintf("%d\t%d", first, last)); err != nil {
		return err
	}
	for _, name := range nics {
		if err := b.unfilterNIC(name); err != nil {
			return err
		}
		if err := b.filterNIC(name); err != nil {
			return err
		}
	}
	return b.owner.install()
}

// filterNIC is LxGnsMessageInterfaceNetFilter with the operation Create.
func (b *Bench) filterNIC(name string) error {
	if err := b.masqueradeBy(name); errors.Is(err, unix.ENOENT) {
		return nil // WSL reports it to Windows, and goes on with the next message
	} else if err != nil {
		return err
	}
	return b.ruleNIC(name, false)
}

// unfilterNIC is the same with the operation Remove.
func (b *Bench) unfilterNIC(name string) error {
	link, err := b.WSL.Net.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s of WSL: %w", name, err)
	}
	c, err := b.WSL.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	for _, family := range ipFamilies {
		table := &nftables.Table{Family: family, Name: "nat"}
		rules, err := c.GetRules(table, &nftables.Chain{Name: wslPostrouting, Table: table})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list WSL's rules: %w", err)
		}
		chain, err := c.ListChain(table, wslPostrouting)
		if err != nil || chain == nil {
			return nil // a dump of a chain that is not there is empty
		}
		for _, rule := range rules {
			if ofLink(rule, link.Attrs().Index) {
				if err := c.DelRule(rule); err != nil {
					return err
				}
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("remove WSL's rules of %s: %w", name, err)
		}
	}
	return b.ruleNIC(name, true)
}

// ofLink reports whether a rule begins with "oif LINK".
func ofLink(rule *nftables.Rule, index int) bool {
	if len(rule.Exprs) < 2 {
		return false
	}
	meta, ok := rule.Exprs[0].(*expr.Meta)
	cmp, ok2 := rule.Exprs[1].(*expr.Cmp)
	return ok && ok2 && meta.Key == expr.MetaKeyOIF && string(cmp.Data) == string(binaryutil.NativeEndian.PutUint32(uint32(index)))
}

// ruleNIC is UpdateMirroredLoopbackRulesForInterface.
func (b *Bench) ruleNIC(name string, remove bool) error {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		r := wslRule{remove: remove, iif: name, proto: proto, table: unix.RT_TABLE_LOCAL}
		if err := r.send(b.WSL); err != nil {
			return err
		}
	}
	return nil
}

// A wslRule is a message of WSL that adds or removes an ip rule.
type wslRule struct {
	remove      bool
	pref, table uint32
	proto       uint8
	iif         string
}

// send sends it without NLM_F_EXCL, so that a rule that is there is added again. As
// with WSL, what is there or not there already is no error.
func (r wslRule) send(h *Host) error {
	kind, flags := unix.RTM_NEWRULE, unix.NLM_F_ACK|unix.NLM_F_CREATE
	if r.remove {
		kind, flags = unix.RTM_DELRULE, unix.NLM_F_ACK
	}
	err := h.Do(func() error {
		m := nl.NewNetlinkRequest(kind, flags)
		msg := nl.NewRtMsg()
		msg.Family, msg.Protocol, msg.Type, msg.Table = unix.AF_INET, unix.RTPROT_BOOT, unix.RTN_UNICAST, 0
		m.AddData(msg)
		m.AddData(nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(r.table)))
		m.AddData(nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(r.pref)))
		if r.proto != 0 {
			m.AddData(nl.NewRtAttr(nl.FRA_IP_PROTO, []byte{r.proto}))
		}
		if r.iif != "" {
			m.AddData(nl.NewRtAttr(nl.FRA_IIFNAME, nl.ZeroTerminated(r.iif)))
		}
		_, err := m.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("WSL's rule %+v: %w", r, err)
	}
	return nil
}

// WSLChains are the rules of WSL's chains for IPv4 as nft lists them, by the name of
// the chain. A chain that is not there is not in it.
func (b *Bench) WSLChains() (map[string][]string, error) {
	list, err := b.WSL.Run("nft", "--stateless", "list", "ruleset", "ip")
	if err != nil {
		return nil, err
	}
	chains, name := map[string][]string{}, ""
	for line := range strings.Lines(list) {
		switch f := strings.Fields(line); {
		case len(f) > 1 && f[0] == "chain":
			if name = f[1]; name == wslOutput || name == wslPostrouting {
				chains[name] = []string{}
			}
		case len(f) > 0 && f[0] == "}":
			name = ""
		case chains[name] != nil && len(f) > 0 && f[0] != "type":
			chains[name] = append(chains[name], strings.Join(f, " "))
		}
	}
	return chains, nil
}
