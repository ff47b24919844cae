package nft

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/nlconn"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// traceMessage is what the kernel sends about a packet that a rule drops.
func traceMessage() []byte {
	b := []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}
	b = nlconn.AppendUint32BE(b, unix.NFTA_TRACE_ID, 7)
	b = nlconn.AppendText(b, unix.NFTA_TRACE_TABLE, "fw")
	b = nlconn.AppendText(b, unix.NFTA_TRACE_CHAIN, "in")
	b = nlconn.Append(b, unix.NFTA_TRACE_RULE_HANDLE, []byte{0, 0, 0, 0, 0, 0, 0, 9})
	b = nlconn.AppendNested(b, unix.NFTA_TRACE_VERDICT, func(b []byte) []byte { return nlconn.AppendUint32BE(b, unix.NFTA_VERDICT_CODE, 0) })
	b = nlconn.AppendUint32BE(b, unix.NFTA_TRACE_IIF, 3)
	b = nlconn.Append(b, unix.NFTA_TRACE_NETWORK_HEADER, []byte{0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0, 127, 0, 0, 1, 10, 0, 0, 2})
	return nlconn.Append(b, unix.NFTA_TRACE_TRANSPORT_HEADER, []byte{0xc3, 0x50, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, syn, 0, 0, 0, 0, 0, 0})
}

func TestDecodeTrace(t *testing.T) {
	e, err := decodeTrace(traceMessage())
	if err != nil || e.Packet != 7 || e.Table != "inet fw" || e.Chain != "in" || e.Handle != 9 || !e.Does.Drops() || !e.Does.Ends() || e.Does.Continues() {
		t.Errorf("%+v, %v", e, err)
	}
	want := TraceHead{Iif: 3, Proto: unix.IPPROTO_TCP, Src: netip.MustParseAddrPort("127.0.0.1:50000"), Dst: netip.MustParseAddrPort("10.0.0.2:8080"), First: true}
	if e.Head == nil || *e.Head != want {
		t.Errorf("%+v, want %+v", e.Head, want)
	}
	policy := nlconn.AppendUint32BE([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, unix.NFTA_TRACE_POLICY, 1)
	if e, err = decodeTrace(policy); err != nil || e.Does.Drops() || !e.Does.Ends() || e.Handle != 0 || e.Head != nil {
		t.Errorf("a policy: %+v, %v", e, err)
	}
}

// What the kernel has reported before tracing ends is read, also where the machine is so
// busy that this takes long.
func TestTracerReadsWhatWaits(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	const packets = 5
	var tracer *Tracer
	in(t, b.WSL, func() (err error) {
		tracer, err = OpenTracer([]Traced{{Dst: ruleset.Localhost, Port: ruleset.Port{Proto: unix.IPPROTO_UDP, Number: 9000}}})
		return err
	})
	defer tracer.Close()
	for range packets {
		_, _ = b.WSL.Ask("udp", "127.0.0.1:9000", time.Millisecond) // nobody answers
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen := map[uint32]bool{}
	missed, err := tracer.Follow(ctx, func(e TraceEvent) {
		if len(seen) == 0 {
			cancel()
			time.Sleep(200 * time.Millisecond) // this program has to wait for a processor
		}
		seen[e.Packet] = true
	})
	if err != nil || missed != 0 || len(seen) < packets {
		t.Errorf("%d packets were seen and %d missed, %v; want %d", len(seen), missed, err, packets)
	}
}

func FuzzDecodeTrace(f *testing.F) {
	f.Add(traceMessage())
	f.Add(traceMessage()[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeTrace(b); err == nil && e.Head != nil && !e.Head.Src.Addr().Is4() {
			t.Errorf("%+v", e.Head)
		}
	})
}
