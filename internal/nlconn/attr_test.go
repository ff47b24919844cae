package nlconn

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Encoded attributes decode to the same.
func TestAttrs(t *testing.T) {
	b := AppendUint8(nil, 1, 7)
	b = AppendUint16BE(b, 2, 0x1234)
	b = AppendUint32(b, 3, 0x12345678)
	b = AppendText(b, 4, "lo")
	b = AppendNested(b, 5|unix.NLA_F_NESTED, func(b []byte) []byte {
		return Append(Append(b, 6, []byte{127, 0, 0, 1}), 7, []byte{0, 0, 0x12, 0x34})
	})
	if len(b)%unix.NLMSG_ALIGNTO != 0 {
		t.Errorf("%d bytes", len(b))
	}
	seen := map[uint16]any{}
	err := Attrs(b, func(a *Attr) {
		switch a.Kind {
		case 1:
			seen[1] = a.Uint8()
		case 2:
			seen[2] = bytes.Equal(a.Data, []byte{0x12, 0x34})
		case 3:
			seen[3] = a.Uint32()
		case 4:
			seen[4] = a.Text()
		case 5:
			a.Nested(func(a *Attr) {
				switch a.Kind {
				case 6:
					seen[6] = a.Addr().String()
				case 7:
					seen[7] = a.Uint32BE()
				}
			})
		}
	})
	want := map[uint16]any{1: uint8(7), 2: true, 3: uint32(0x12345678), 4: "lo", 6: "127.0.0.1", 7: uint32(0x1234)}
	for kind, v := range want {
		if seen[kind] != v {
			t.Errorf("attribute %d is %v, want %v", kind, seen[kind], v)
		}
	}
	if err != nil || len(seen) != len(want) {
		t.Errorf("%v, %v", seen, err)
	}
}

// An attribute of the wrong size, at any depth, is an error and ends the iteration.
func TestAttrsOfTheWrongSize(t *testing.T) {
	b := AppendNested(nil, 1, func(b []byte) []byte { return Append(b, 2, []byte{1, 2, 3}) })
	b = AppendUint8(b, 3, 0)
	for name, read := range map[string]func(a *Attr){
		"8":       func(a *Attr) { a.Uint8() },
		"32":      func(a *Attr) { a.Uint32() },
		"32BE":    func(a *Attr) { a.Uint32BE() },
		"address": func(a *Attr) { a.Addr() },
		"own":     func(a *Attr) { a.Do(func([]byte) error { return errors.New("no") }) },
	} {
		n := 0
		err := Attrs(b, func(a *Attr) { n++; a.Nested(read) })
		if err == nil || n != 1 {
			t.Errorf("%s: %v after %d", name, err, n)
		}
	}
	if _, err := GenAttrs([]byte{1, 2}, nil); err == nil {
		t.Error("a header that is cut off is no error")
	}
	if family, err := GenAttrs([]byte{2, 0, 0, 0}, nil); err != nil || family != 2 {
		t.Errorf("%d, %v", family, err)
	}
}

func TestDecodingDoesNotAllocate(t *testing.T) {
	b := AppendNested(nil, 1, func(b []byte) []byte { return AppendText(b, 2, "x") })
	if n := testing.AllocsPerRun(100, func() {
		_, data, _, _ := Next(b)
		_, _, _, _ = Next(data)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAttrs(f *testing.F) {
	f.Add(AppendNested(AppendText(nil, 3, "lo"), 1, func(b []byte) []byte { return AppendUint32(b, 2, 1) }))
	f.Add([]byte{5, 0, 1, 0, 9})
	f.Add([]byte{3, 0, 1, 0})
	f.Add([]byte{255, 255, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 0
		err := Attrs(b, func(a *Attr) {
			size += attrHeader + len(a.Data)
			switch a.Kind % 7 {
			case 0:
				_ = a.Text()
			case 1:
				a.Nested(func(*Attr) {})
			case 2:
				_ = a.Uint32() + a.Uint32BE()
			case 3:
				_ = a.Addr()
			case 4:
				_ = a.Uint8()
			}
		})
		if size > len(b) {
			t.Errorf("%d bytes of %d", size, len(b))
		}
		_ = err
		for rest := b; len(rest) > 0; {
			m, next, err := nextMessage(rest)
			if err != nil {
				break
			}
			if len(next) >= len(rest) || len(m.data) > len(rest) {
				t.Fatal("no progress")
			}
			rest = next
		}
	})
}
