package netwatch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Rule is an ip rule of IPv4. See ip-rule(8).
type Rule struct {
	Priority uint32
	// Action is one of unix.FR_ACT_*; Table is for FR_ACT_TO_TBL, Goto for
	// FR_ACT_GOTO.
	Action      uint8
	Table, Goto uint32
	// Not turns all conditions round. A condition with its zero value is none.
	Not        bool
	From, To   netip.Prefix
	Iif, Oif   string
	Mark, Mask uint32
	TOS        uint8
	IPProto    uint8
	// SuppressPrefix has routes with a prefix of at most that many bits ignored, -1
	// none.
	SuppressPrefix int
	// L3Mdev says that the table is that of the packet's VRF.
	L3Mdev bool
	// Other says that there are more conditions: ports, users or tunnels.
	Other bool
	// Protocol is who added it, one of unix.RTPROT_* or of /etc/iproute2/rt_protos.
	Protocol uint8
}

// ReadRules reads the ip rules of IPv4, in the order in which the kernel asks
// them.
func ReadRules() ([]Rule, error) { return read("ip rules", unix.RTM_GETRULE, decodeRule) }

// fibRuleInvert is FIB_RULE_INVERT of fib_rules.h.
const fibRuleInvert = 0x2

// decodeRule decodes a fib_rule_hdr and its attributes.
func decodeRule(b []byte) (Rule, error) {
	const dstLenAt, srcLenAt, tosAt, tableAt, actionAt, flagsAt = 1, 2, 3, 4, 7, 8
	r := Rule{SuppressPrefix: -1}
	if len(b) < unix.SizeofRtMsg {
		return r, fmt.Errorf("a message of %d bytes", len(b))
	}
	r.TOS, r.Table, r.Action = b[tosAt], uint32(b[tableAt]), b[actionAt]
	r.Not = binary.NativeEndian.Uint32(b[flagsAt:])&fibRuleInvert != 0
	// Without an address a prefix length means nothing.
	prefix := func(ad *netlink.AttributeDecoder, bits byte) netip.Prefix {
		addr, ok := netip.AddrFromSlice(ad.Bytes())
		if !ok {
			return netip.Prefix{}
		}
		return netip.PrefixFrom(addr, int(bits)).Masked()
	}
	err := attributes(b[unix.SizeofRtMsg:], func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.FRA_PRIORITY:
			r.Priority = ad.Uint32()
		case unix.FRA_TABLE:
			r.Table = ad.Uint32()
		case unix.FRA_GOTO:
			r.Goto = ad.Uint32()
		case unix.FRA_SRC:
			r.From = prefix(ad, b[srcLenAt])
		case unix.FRA_DST:
			r.To = prefix(ad, b[dstLenAt])
		case unix.FRA_IIFNAME:
			r.Iif = ad.String()
		case unix.FRA_OIFNAME:
			r.Oif = ad.String()
		case unix.FRA_FWMARK:
			r.Mark = ad.Uint32()
		case unix.FRA_FWMASK:
			r.Mask = ad.Uint32()
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressPrefix = int(int32(ad.Uint32()))
		case unix.FRA_L3MDEV:
			r.L3Mdev = ad.Uint8() != 0
		case unix.FRA_PROTOCOL:
			r.Protocol = ad.Uint8()
		case unix.FRA_IP_PROTO:
			r.IPProto = ad.Uint8()
		case unix.FRA_TUN_ID, unix.FRA_UID_RANGE, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
			r.Other = true
		}
	})
	return r, err
}

// String is the rule as "ip rule" prints it, for people.
func (r Rule) String() string {
	var b strings.Builder
	word := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.Not {
		word("not")
	}
	if r.From.IsValid() {
		word("from %s", r.From)
	} else {
		word("from all")
	}
	if r.To.IsValid() {
		word("to %s", r.To)
	}
	if r.TOS != 0 {
		word("tos %#x", r.TOS)
	}
	if r.Mark != 0 || r.Mask != 0 {
		word("fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.Iif != "" {
		word("iif %s", r.Iif)
	}
	if r.Oif != "" {
		word("oif %s", r.Oif)
	}
	switch r.IPProto {
	case 0:
	case unix.IPPROTO_TCP:
		word("ipproto tcp")
	case unix.IPPROTO_UDP:
		word("ipproto udp")
	default:
		word("ipproto %d", r.IPProto)
	}
	if r.Other {
		word("(and more)")
	}
	switch {
	case r.L3Mdev:
		word("lookup [l3mdev-table]")
	case r.Action == unix.FR_ACT_TO_TBL:
		word("lookup %s", TableName(r.Table))
	case r.Action == unix.FR_ACT_GOTO:
		word("goto %d", r.Goto)
	case r.Action == unix.FR_ACT_NOP:
		word("nop")
	case r.Action == unix.FR_ACT_BLACKHOLE:
		word("blackhole")
	case r.Action == unix.FR_ACT_UNREACHABLE:
		word("unreachable")
	case r.Action == unix.FR_ACT_PROHIBIT:
		word("prohibit")
	}
	if r.SuppressPrefix >= 0 {
		word("suppress_prefixlength %d", r.SuppressPrefix)
	}
	if r.Protocol > unix.RTPROT_BOOT {
		word("proto %d", r.Protocol)
	}
	return b.String()
}

// TableName is the name of a routing table, or its number.
func TableName(table uint32) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}
