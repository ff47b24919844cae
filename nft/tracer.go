package nft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Traced selects packets that a Tracer traces: requests to a port and their answers.
type Traced struct {
	// Iif is the index of the link on which requests arrive, 0 for requests from this
	// machine.
	Iif  int
	Src  netip.Addr // not valid: any
	Dst  netip.Addr
	Port ruleset.Port
}

// A Tracer makes the kernel trace packets. It does so with a table of its own, which
// its socket owns, so the table disappears with the process, however that ends.
type Tracer struct {
	conn   *nftables.Conn
	sock   *netlink.Conn // the socket of conn
	events *netlink.Conn
	table  *nftables.Table
}

// The chains of the Tracer's table in which a packet begins and ends.
const (
	Arrives   = "arrives"   // at prerouting, before all others
	Returned  = "returned"  // the same, for a packet that was sent by this machine
	Departs   = "departs"   // at output, before all others
	Delivered = "delivered" // at input, after all others
	Leaves    = "leaves"    // at postrouting, after all others
)

// startedSet holds the sources of requests that this machine has sent. Windows sends
// them back, and then they look like Windows' own.
const startedSet = "started"

// mostTraced is the maximum number of packets a second that each rule traces. Each
// packet causes a message for each rule that it meets.
const mostTraced = 50

// traceBuffer is the size of the receive buffer for trace messages, in bytes.
const traceBuffer = 8 << 20

// OpenTracer starts a Tracer.
func OpenTracer(list []Traced) (*Tracer, error) {
	conn, sock, err := dial()
	if err != nil {
		return nil, err
	}
	t := &Tracer{conn: conn, sock: sock, table: &nftables.Table{
		// Two Tracers may run at once. The port ID is unique in the network namespace.
		Name: fmt.Sprintf("%s%d", traceName, sock.PID()), Family: nftables.TableFamilyIPv4, Flags: nftables.TableFlagOwner,
	}}
	t.events, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err == nil {
		err = errors.Join(t.events.SetReadBuffer(traceBuffer), t.events.JoinGroup(unix.NFNLGRP_NFTRACE))
	}
	if err == nil {
		err = t.install(list)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("trace packets: %w", err), t.Close())
	}
	return t, nil
}

// The prefix of the Tracers' table names, alone and as the kernel reports it.
const (
	traceName   = TableName + "-trace-"
	tracePrefix = TableFamily + " " + traceName
)

// Close stops tracing.
func (t *Tracer) Close() error {
	err := closed(t.conn.CloseLasting())
	if t.events != nil {
		err = errors.Join(err, t.events.Close())
	}
	return err
}

func (t *Tracer) install(list []Traced) error {
	t.conn.AddTable(t.table)
	started := &nftables.Set{
		Table: t.table, Name: startedSet, KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService), Concatenation: true,
		Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: mostElements,
	}
	if err := t.conn.AddSet(started, nil); err != nil {
		return err
	}
	chain := func(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		c := &nftables.Chain{Name: name, Table: t.table}
		if hook != nil {
			c.Type, c.Hooknum, c.Priority = nftables.ChainTypeFilter, hook, &priority
		}
		return t.conn.AddChain(c)
	}
	rule := func(c *nftables.Chain, exprs ...[]expr.Any) {
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: slices.Concat(exprs...)})
	}
	returned := chain(Returned, nil, 0)
	arrives := chain(Arrives, nftables.ChainHookPrerouting, math.MinInt32)
	departs := chain(Departs, nftables.ChainHookOutput, math.MinInt32)
	chain(Delivered, nftables.ChainHookInput, math.MaxInt32)
	chain(Leaves, nftables.ChainHookPostrouting, math.MaxInt32)
	rule(returned, traceIt())
	// Packets that conntrack knows already have passed this hook on a bridge
	// (br_netfilter) or arrive on lo. The kernel goes on tracing them under another
	// packet ID.
	rule(arrives, isTracked(), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})
	source := []expr.Any{loadAddr(ipSaddr, 4), loadTH(unix.NFT_REG32_01, thSport)}
	// Requests from this machine come first: when Windows sends them back, they are not
	// Windows' own.
	for _, m := range slices.SortedStableFunc(slices.Values(list), func(a, b Traced) int { return cmp.Compare(min(a.Iif, 1), min(b.Iif, 1)) }) {
		request := slices.Concat(matchProto(m.Port.Proto), matchAddr(ipDaddr, m.Dst.AsSlice()), matchPort(thDport, m.Port))
		if m.Src.IsValid() {
			request = append(request, matchAddr(ipSaddr, m.Src.AsSlice())...)
		}
		if m.Iif == 0 {
			rule(departs, request, source, []expr.Any{
				&expr.Dynset{SrcRegKey: 1, SetName: startedSet, SetID: started.ID, Operation: unix.NFT_DYNSET_OP_UPDATE},
			}, traceIt())
			rule(arrives, request, source, []expr.Any{
				&expr.Lookup{SourceRegister: 1, SetName: startedSet, SetID: started.ID},
				&expr.Verdict{Kind: expr.VerdictGoto, Chain: Returned},
			})
			continue
		}
		rule(arrives, matchLink(expr.MetaKeyIIF, expr.CmpOpEq, m.Iif), request, traceIt())
	}
	var answers []Traced
	for _, m := range list {
		if a := (Traced{Dst: m.Dst, Port: m.Port}); !slices.Contains(answers, a) {
			answers = append(answers, a)
			match := slices.Concat(matchProto(m.Port.Proto), matchAddr(ipSaddr, m.Dst.AsSlice()), matchPort(thSport, m.Port))
			rule(departs, match, traceIt())
			rule(arrives, match, traceIt())
		}
	}
	return within(t.sock, installTimeout, t.conn.Flush)
}

// isTracked is ct state new,established,related.
func isTracked() []expr.Any {
	const states = 1<<1 | 1<<2 | 1<<3 // NF_CT_STATE_BIT of nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(states), Xor: word(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)},
	}
}

// matchPort matches one of the ports of a packet.
func matchPort(offset uint32, p ruleset.Port) []expr.Any {
	return []expr.Any{loadTH(1, offset), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(p.Number >> 8), byte(p.Number)}}}
}

// traceIt is counter limit rate 50/second meta nftrace set 1.
func traceIt() []expr.Any {
	return []expr.Any{
		&expr.Counter{},
		&expr.Limit{Type: expr.LimitTypePkts, Rate: mostTraced, Unit: expr.LimitTimeSecond, Burst: mostTraced},
		&expr.Immediate{Register: 1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1},
	}
}

// A TraceEvent is one report about a traced packet: the effect of a rule, or of the
// policy of a base chain.
type TraceEvent struct {
	Packet uint32 // identifies the packet; IDs are reused
	Table  string // as in "inet filter"
	Chain  string
	Handle uint64 // 0: the policy
	Does   TraceVerdict
	// Head is set in the first event of each base chain.
	Head *TraceHead
}

// A TraceVerdict is NF_DROP and so on of netfilter.h, or if negative NFT_CONTINUE and
// so on of nf_tables.h.
type TraceVerdict int32

const traceContinues TraceVerdict = -1 // NFT_CONTINUE

// Ends reports whether the verdict ends the base chain.
func (v TraceVerdict) Ends() bool { return v >= 0 }

// Drops reports whether the verdict drops the packet.
func (v TraceVerdict) Drops() bool { return v.Ends() && v&0xff == 0 } // the upper bits are a reason

// Continues reports whether the next rule is evaluated.
func (v TraceVerdict) Continues() bool { return v == traceContinues }

// A TraceHead is the packet's header at that moment.
type TraceHead struct {
	Iif, Oif int
	Proto    uint8
	Src, Dst netip.AddrPort
	// First says that it is a TCP SYN, or the answer to one.
	First bool
}

// Follow calls each with every event until ctx is done. missed is how many packets were
// not traced because there were too many.
func (t *Tracer) Follow(ctx context.Context, each func(TraceEvent)) (missed uint64, err error) {
	var counted, traced uint64
	defer context.AfterFunc(ctx, func() {
		counted = t.counted()
		t.conn.DelTable(t.table)
		_ = within(t.sock, answerTimeout, t.conn.Flush) // the table also goes with the socket
		_ = t.events.SetReadDeadline(time.Now())
	})()
	var ended time.Time
	for {
		// Other tools' events may never end.
		if !ended.IsZero() && (time.Since(ended) > answerTimeout || !t.pending()) {
			return max(counted, traced) - traced, nil
		}
		messages, err := t.events.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			continue // counted in missed
		case errors.Is(err, os.ErrDeadlineExceeded):
			// After a deadline nothing is read, even if there are messages.
			if err := t.events.SetReadDeadline(time.Time{}); err != nil {
				return 0, err
			}
			ended = time.Now()
			continue
		case err != nil:
			return 0, fmt.Errorf("trace packets: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE {
				continue
			}
			e, err := decodeTrace(m.Data)
			if err != nil || strings.HasPrefix(e.Table, tracePrefix) && !t.Owns(e) {
				continue // an event of another Tracer
			}
			if t.Owns(e) && e.Handle != 0 && e.Does.Continues() {
				traced++
			}
			each(e)
		}
	}
}

// pending reports whether there is a message. It waits a moment for those that are under
// way.
func (t *Tracer) pending() bool {
	raw, err := t.events.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		const lastWords = 50 // ms
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, lastWords)
	})
	return err == nil && n > 0
}

// counted returns how many packets the rules have met.
func (t *Tracer) counted() (packets uint64) {
	r, err := ruleset.OpenReader(TableName)
	if err != nil {
		return 0
	}
	defer r.Close()
	rules, _ := r.Rules(unix.NFPROTO_IPV4, t.table.Name, "")
	for _, rule := range rules {
		n, _ := rule.Counted()
		packets += n
	}
	return packets
}

// Owns reports whether an event comes from the Tracer's own table.
func (t *Tracer) Owns(e TraceEvent) bool { return e.Table == TableFamily+" "+t.table.Name }

// decodeTrace decodes what nft_trace_notify (nf_tables_trace.c) sends.
func decodeTrace(msg []byte) (e TraceEvent, err error) {
	var h TraceHead
	var network, transport []byte
	var table string
	e.Does = traceContinues
	family, err := nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_TRACE_ID:
			e.Packet = a.Uint32BE()
		case unix.NFTA_TRACE_TABLE:
			table = a.Text()
		case unix.NFTA_TRACE_CHAIN:
			e.Chain = a.Text()
		case unix.NFTA_TRACE_RULE_HANDLE:
			if len(a.Data) == 8 {
				e.Handle = binary.BigEndian.Uint64(a.Data)
			}
		case unix.NFTA_TRACE_POLICY:
			e.Does = TraceVerdict(a.Uint32BE())
		case unix.NFTA_TRACE_VERDICT:
			a.Nested(func(a *nlconn.Attr) {
				if a.Kind == unix.NFTA_VERDICT_CODE {
					e.Does = TraceVerdict(a.Uint32BE())
				}
			})
		case unix.NFTA_TRACE_IIF:
			h.Iif = int(a.Uint32BE())
		case unix.NFTA_TRACE_OIF:
			h.Oif = int(a.Uint32BE())
		case unix.NFTA_TRACE_NETWORK_HEADER:
			network = a.Data
		case unix.NFTA_TRACE_TRANSPORT_HEADER:
			transport = a.Data
		}
	})
	e.Table = ruleset.FamilyName(family) + " " + table
	const header, fragment = 20, 0x1fff // of IPv4
	if len(network) < header || network[0]>>4 != 4 || len(transport) < 4 || binary.BigEndian.Uint16(network[6:])&fragment != 0 {
		return e, err
	}
	at := func(addr, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(network[addr:])), binary.BigEndian.Uint16(transport[port:]))
	}
	h.Proto, h.Src, h.Dst = network[9], at(ipSaddr, thSport), at(ipDaddr, thDport)
	h.First = h.Proto == unix.IPPROTO_TCP && len(transport) > tcpFlags && transport[tcpFlags]&syn != 0
	e.Head = &h
	return e, err
}
