package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Mode is one of WSL's networking modes that have loopback0.
type Mode int

// Mirrored is networkingMode=mirrored as WSL has it by default, MirroredHAL is the
// same with hostAddressLoopback=true, and Consomme is networkingMode=consomme
// (virtioproxy until WSL 2.9).
const (
	Mirrored Mode = iota
	MirroredHAL
	Consomme
)

// Modes are all of them.
var Modes = []Mode{Mirrored, MirroredHAL, Consomme}

var modeNames = []string{"mirrored", "mirrored-hal", "consomme"}

func (m Mode) String() string { return modeNames[m] }

// MarshalText returns the name of the mode.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the name of a mode.
func (m *Mode) UnmarshalText(text []byte) error {
	i := slices.Index(modeNames, string(text))
	if i < 0 {
		return fmt.Errorf("%q is none of mirrored, mirrored-hal, consomme", text)
	}
	*m = Mode(i)
	return nil
}

// consommeAddr is the address of loopback0 in consomme.
var consommeAddr = netip.MustParsePrefix("169.254.73.250/28")

// SetMode gives the machine another mode, as if it had been started with that, while
// its programs, engines and containers go on. loopback0 is a new one after that.
func (b *Bench) SetMode(m Mode) error {
	if err := b.RemoveLoopback0(); err != nil {
		return err
	}
	if err := b.removeWSLChains(); err != nil {
		return err
	}
	link, err := b.WSL.Net.LinkByName(eth0)
	if err != nil {
		return fmt.Errorf("%s of WSL: %w", eth0, err)
	}
	// What only mirrored-hal has; the rest of its neighbour entry is not used.
	err = b.WSL.Net.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host(wslAddr.Addr()), Table: localTable})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route of table %d: %w", localTable, err)
	}
	err = b.WSL.Net.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_INET, IP: gateway.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove neighbour of %s: %w", eth0, err)
	}
	for _, key := range []string{"accept_local", "route_localnet"} {
		if err := b.WSL.Sysctl("ipv4/conf/eth0/"+key, "0"); err != nil {
			return err
		}
	}
	for _, h := range []*Host{b.WSL, b.Windows} {
		if err := resetRules(h); err != nil {
			return err
		}
	}
	if err := b.disconnectShared(); err != nil {
		return err
	}
	b.mode = m
	// A client that gets the source port of a flow of before would be in that flow.
	if err := b.WSL.Net.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("forget flows: %w", err)
	}
	if err := b.setPorts(); err != nil {
		return err
	}
	return b.boot(true)
}

// boot does what WSL does when it starts, but for the source ports and for the
// addresses and routes of the LAN.
func (b *Bench) boot(loopback0 bool) error {
	if err := b.loseRefusals(); err != nil {
		return err
	}
	if b.mode != Consomme {
		if err := b.mirrorNIC(eth0, wslAddr.Addr()); err != nil {
			return err
		}
	}
	if b.mode == MirroredHAL {
		if err := b.connectShared(); err != nil {
			return err
		}
	}
	if loopback0 {
		if err := b.connectWindows(); err != nil {
			return err
		}
	}
	if b.mode == Consomme {
		return nil
	}
	return b.addWSLChains()
}

// The source ports that the kernel uses if nobody says otherwise, and those that
// Windows uses then. Both systems share one port space.
const (
	kernelFirst, kernelLast = 32768, 60999
	windowsBeside           = "61000\t65535"
)

// setPorts sets the source ports of both systems.
func (b *Bench) setPorts() error {
	b.FirstPort, b.LastPort = firstPort, uint16(firstPort+b.ports-1)
	windows := windowsPorts
	if b.mode == Consomme {
		b.FirstPort, b.LastPort, windows = kernelFirst, kernelLast, windowsBeside
	}
	if err := b.WSL.Sysctl("ipv4/ip_local_port_range", fmt.Sprintf("%d\t%d", b.FirstPort, b.LastPort)); err != nil {
		return err
	}
	return b.Windows.Sysctl("ipv4/ip_local_port_range", windows)
}

// mirrorNIC lets packets from Windows arrive on a mirrored interface; with
// hostAddressLoopback those to its address also leave through it.
func (b *Bench) mirrorNIC(dev string, addr netip.Addr) error {
	if err := enableLoopbackRouting(b.WSL, dev); err != nil {
		return err
	}
	if b.mode == MirroredHAL {
		if err := leaveBy(b.WSL, dev, addr, localTable, gatewayMAC); err != nil {
			return err
		}
	}
	return localFirst(b.WSL, dev)
}

// globalSysctls are what WSL sets for all interfaces, of which "all" of rp_filter is
// set with loopback0.
func (b *Bench) globalSysctls() error {
	for _, scope := range []string{"all", "default"} {
		// EnableIpv4ArpFilter
		if err := b.WSL.Sysctl("ipv4/conf/"+scope+"/arp_filter", "1"); err != nil {
			return err
		}
		for key, value := range map[string]string{
			"accept_ra": "0", "dad_transmits": "0", "autoconf": "0", "addr_gen_mode": "1", "use_tempaddr": "0",
		} {
			err := b.WSL.Sysctl("ipv6/conf/"+scope+"/"+key, value)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
				return err
			}
		}
	}
	return nil
}

// resetRules gives a host the rules with which a kernel starts, but for those that
// others have added.
func resetRules(h *Host) error {
	rules, err := h.Net.RuleList(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list rules of %s: %w", h.Name, err)
	}
	local := netlink.NewRule()
	local.Priority, local.Table = 0, unix.RT_TABLE_LOCAL
	if err := addRule(h, local); err != nil {
		return err
	}
	for _, rule := range rules {
		rule.Priority = max(rule.Priority, 0)
		if rule.Priority > 2 || rule.Mask != nil || rule.Priority == 0 && rule.IifName == "" {
			continue
		}
		if err := h.Net.RuleDel(&rule); err != nil {
			return fmt.Errorf("remove rule %s in %s: %w", rule, h.Name, err)
		}
	}
	return nil
}
