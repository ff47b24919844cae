package netwatch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A Rule is an IPv4 ip rule. See ip-rule(8).
type Rule struct {
	Priority uint32
	// Action is one of unix.FR_ACT_*. Table is for FR_ACT_TO_TBL, Goto for FR_ACT_GOTO.
	Action      uint8
	Table, Goto uint32
	// Not inverts the conditions as a whole. A condition with its zero value is absent.
	Not        bool
	From, To   netip.Prefix
	Iif, Oif   string
	Mark, Mask uint32
	TOS        uint8
	IPProto    uint8
	// SuppressPrefix ignores routes with a prefix of at most that many bits; -1 ignores
	// none.
	SuppressPrefix int
	// L3Mdev says that the table is the one of the packet's VRF.
	L3Mdev bool
	// Other says that the rule has parts that the fields here cannot express, for
	// example ports, users or tunnels.
	Other bool
	// Protocol is who added the rule: one of unix.RTPROT_* or of
	// /etc/iproute2/rt_protos.
	Protocol uint8
}

// Offsets in struct fib_rule_hdr, and FIB_RULE_INVERT of fib_rules.h.
const (
	dstLenAt, srcLenAt, tosAt, tableAt, actionAt, flagsAt = 1, 2, 3, 4, 7, 8

	fibRuleInvert = 0x2
)

// decodeRule decodes a fib_rule_hdr and its attributes.
func decodeRule(b []byte) (Rule, error) {
	r := Rule{SuppressPrefix: -1}
	if len(b) < unix.SizeofRtMsg {
		return r, fmt.Errorf("a message of %d bytes", len(b))
	}
	r.TOS, r.Table, r.Action = b[tosAt], uint32(b[tableAt]), b[actionAt]
	r.Not = binary.NativeEndian.Uint32(b[flagsAt:])&fibRuleInvert != 0
	err := nlconn.Attrs(b[unix.SizeofRtMsg:], func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.FRA_PRIORITY:
			r.Priority = a.Uint32()
		case unix.FRA_TABLE:
			r.Table = a.Uint32()
		case unix.FRA_GOTO:
			r.Goto = a.Uint32()
		case unix.FRA_SRC:
			r.From = condition(netip.PrefixFrom(a.Addr(), int(b[srcLenAt])))
		case unix.FRA_DST:
			r.To = condition(netip.PrefixFrom(a.Addr(), int(b[dstLenAt])))
		case unix.FRA_IIFNAME:
			r.Iif = a.Text()
		case unix.FRA_OIFNAME:
			r.Oif = a.Text()
		case unix.FRA_FWMARK:
			r.Mark = a.Uint32()
		case unix.FRA_FWMASK:
			r.Mask = a.Uint32()
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressPrefix = max(-1, int(int32(a.Uint32()))) // no prefix is shorter than 0
		case unix.FRA_L3MDEV:
			r.L3Mdev = a.Uint8() != 0
		case unix.FRA_PROTOCOL:
			r.Protocol = a.Uint8()
		case unix.FRA_IP_PROTO:
			r.IPProto = a.Uint8()
		case unix.FRA_PAD, unix.FRA_FLOW: // a realm is not a condition
		default:
			// An unknown attribute may be a condition. FRA_DSCP, for example, is newer
			// than the constants of x/sys.
			r.Other = true
		}
	})
	return r, err
}

// String formats the rule as "ip rule" prints it.
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

// TableName returns the name of a routing table, or its number.
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
