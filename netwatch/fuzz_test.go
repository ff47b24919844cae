package netwatch

import (
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

const messagesFile = "testdata/messages.hex"

// Messages from the kernel are trusted, but no bytes may crash the daemon: a newer
// kernel may send something new.
func FuzzDecode(f *testing.F) {
	recorded, err := os.ReadFile(messagesFile)
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(recorded)) {
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if l, err := decodeLink(msg); err == nil && len(msg) < unix.SizeofIfInfomsg {
			t.Errorf("%+v of %d bytes", l, len(msg))
		}
		if a, err := decodeAddr(msg); err == nil && a.prefix.IsValid() && (a.prefix.Bits() > 32 || !a.prefix.Contains(a.prefix.Addr())) {
			t.Errorf("%v", a.prefix)
		}
		_, _ = decodeRoute(msg)
		_, _ = decodeNeighbour(msg)
		_, _ = decodeAnswer(msg)
		// A decoded rule can be encoded, and decodes to the same again.
		r, err := decodeRule(msg)
		if err != nil {
			return
		}
		if again, err := r.encode(); err == nil {
			if got, err := decodeRule(again); err != nil || got != r.normal() {
				t.Errorf("%+v became %+v, %v", r, got, err)
			}
		}
	})
}

var update = flag.Bool("update", false, "record the messages of this machine's kernel")

// The seeds are messages of a kernel. -update records those of this machine's kernel,
// which must be understood in any case.
func TestRecordMessages(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.StartStandIn(); err != nil {
		t.Fatal(err)
	}
	var recorded strings.Builder
	err := b.WSL.Do(func() error {
		c, err := Open()
		if err != nil {
			return err
		}
		defer c.Close()
		for _, dump := range []struct {
			request int
			decode  func([]byte) error
		}{
			{unix.RTM_GETLINK, func(b []byte) error { _, err := decodeLink(b); return err }},
			{unix.RTM_GETADDR, func(b []byte) error { _, err := decodeAddr(b); return err }},
			{unix.RTM_GETROUTE, func(b []byte) error { _, err := decodeRoute(b); return err }},
			{unix.RTM_GETNEIGH, func(b []byte) error { _, err := decodeNeighbour(b); return err }},
			{unix.RTM_GETRULE, func(b []byte) error { _, err := decodeRule(b); return err }},
		} {
			msgs, err := c.nl.Dump(dump.request, append([]byte{unix.AF_INET}, make([]byte, unix.SizeofIfInfomsg-1)...))
			if err != nil {
				return err
			}
			for _, m := range msgs[:min(len(msgs), 8)] {
				if err := dump.decode(m); err != nil {
					t.Errorf("%x: %v", m, err)
				}
				recorded.WriteString(hex.EncodeToString(m) + "\n")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !*update {
		return
	}
	if err := os.WriteFile(messagesFile, []byte(recorded.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
