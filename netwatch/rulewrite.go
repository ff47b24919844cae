package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// AddRule adds an ip rule. An existing rule is not an error.
func (c *Conn) AddRule(r Rule) error {
	request, err := r.encode()
	if err == nil {
		err = c.nl.Do(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, request)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add ip rule %q: %w", r, err)
	}
	return nil
}

// DeleteRule deletes an ip rule. If several are equal, it deletes the first. A missing
// rule is not an error.
//
// Beware: the kernel treats what r does not specify as a wildcard, and deletes the
// first rule that r fits.
func (c *Conn) DeleteRule(r Rule) error {
	request, err := r.encode()
	if err == nil {
		err = c.nl.Do(unix.RTM_DELRULE, 0, request)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete ip rule %q: %w", r, err)
	}
	return nil
}

// Fits reports whether other has everything that r specifies, so that the kernel may
// delete it instead of r (rule_find in net/core/fib_rules.c). The kernel does not
// compare the flags and the target of a goto.
func (r Rule) Fits(other Rule) bool {
	r = r.normal()
	return r.Priority == other.Priority &&
		named(r.Action, other.Action) && named(r.Table, other.Table) &&
		named(r.Iif, other.Iif) && named(r.Oif, other.Oif) &&
		named(r.Mark, other.Mark) && named(r.Mask, other.Mask) &&
		named(r.IPProto, other.IPProto) && named(r.TOS, other.TOS) && named(r.Protocol, other.Protocol) &&
		named(r.L3Mdev, other.L3Mdev) &&
		(r.SuppressPrefix < 0 || r.SuppressPrefix == other.SuppressPrefix) &&
		named(r.From, other.From) && named(r.To, other.To)
}

// named reports whether wanted is absent or equal to is.
func named[T comparable](wanted, is T) bool {
	var none T
	return wanted == none || wanted == is
}

// normal returns r in the form in which the kernel reports it.
func (r Rule) normal() Rule {
	if r.Mark != 0 && r.Mask == 0 {
		r.Mask = ^uint32(0)
	}
	r.From, r.To = condition(r.From), condition(r.To)
	return r
}

// condition returns p in the form in which a rule names it: a prefix of all addresses
// is not a condition.
func condition(p netip.Prefix) netip.Prefix {
	if p.Bits() <= 0 {
		return netip.Prefix{}
	}
	return p.Masked()
}

// encode encodes a fib_rule_hdr and its attributes. It includes everything that is not
// 0, and always the priority: otherwise the kernel would choose one.
func (r Rule) encode() ([]byte, error) {
	if r.Other {
		return nil, errors.New("it has conditions that cannot be written here")
	}
	r = r.normal()
	if r.From.Addr().Is6() || r.To.Addr().Is6() {
		return nil, errors.New("an address is not of IPv4")
	}
	b := ipv4()
	b[dstLenAt], b[srcLenAt] = byte(max(r.To.Bits(), 0)), byte(max(r.From.Bits(), 0))
	b[tosAt], b[actionAt] = r.TOS, r.Action
	if r.Not {
		binary.NativeEndian.PutUint32(b[flagsAt:], fibRuleInvert)
	}
	b = nlconn.AppendUint32(b, unix.FRA_PRIORITY, r.Priority)
	for _, n := range []struct {
		kind  uint16
		value uint32
	}{
		{unix.FRA_TABLE, r.Table}, {unix.FRA_GOTO, r.Goto}, {unix.FRA_FWMARK, r.Mark}, {unix.FRA_FWMASK, r.Mask},
	} {
		if n.value != 0 {
			b = nlconn.AppendUint32(b, n.kind, n.value)
		}
	}
	if r.From.IsValid() {
		b = nlconn.Append(b, unix.FRA_SRC, r.From.Addr().AsSlice())
	}
	if r.To.IsValid() {
		b = nlconn.Append(b, unix.FRA_DST, r.To.Addr().AsSlice())
	}
	if r.Iif != "" {
		b = nlconn.AppendText(b, unix.FRA_IIFNAME, r.Iif)
	}
	if r.Oif != "" {
		b = nlconn.AppendText(b, unix.FRA_OIFNAME, r.Oif)
	}
	if r.SuppressPrefix >= 0 {
		b = nlconn.AppendUint32(b, unix.FRA_SUPPRESS_PREFIXLEN, uint32(r.SuppressPrefix))
	}
	if r.L3Mdev {
		b = nlconn.AppendUint8(b, unix.FRA_L3MDEV, 1)
	}
	if r.IPProto != 0 {
		b = nlconn.AppendUint8(b, unix.FRA_IP_PROTO, r.IPProto)
	}
	if r.Protocol != 0 {
		b = nlconn.AppendUint8(b, unix.FRA_PROTOCOL, r.Protocol)
	}
	return b, nil
}
