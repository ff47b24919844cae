package sockdiag

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel sends is not trusted blindly either.
func FuzzParseSocket(f *testing.F) {
	f.Add(byte(6), make([]byte, messageLen))
	f.Add(byte(17), append(make([]byte, messageLen), 5, 0, onlyV6, 0, 1, 0, 0, 0))
	f.Add(byte(6), append([]byte{10, 10}, make([]byte, messageLen)...))
	f.Add(byte(6), append(make([]byte, messageLen), 255, 255, onlyV6, 0))
	f.Fuzz(func(t *testing.T, proto byte, msg []byte) {
		if s, err := parseSocket(proto, msg); err == nil && (!s.Local.IsValid() || !s.Remote.IsValid()) {
			t.Errorf("%+v", s)
		}
	})
}

// A kernel without a part of what is asked for.
func TestSocketsOfALesserKernel(t *testing.T) {
	for name, test := range map[string]struct {
		lacks func(family, proto byte) error
		n     int
		want  error
	}{
		"all":     {func(_, _ byte) error { return nil }, 4, nil},
		"no UDP":  {func(_, proto byte) error { return when(proto == unix.IPPROTO_UDP, unix.ENOENT) }, 2, ErrNoUDP},
		"no IPv6": {func(family, _ byte) error { return when(family == unix.AF_INET6, unix.ENOENT) }, 2, nil},
		"nothing": {func(_, _ byte) error { return unix.ENOENT }, 0, unix.ENOENT},
		"failing": {func(_, proto byte) error { return when(proto == unix.IPPROTO_UDP, unix.EIO) }, 0, unix.EIO},
	} {
		got, err := sockets(func(family, proto byte, each func(Socket)) error {
			if err := test.lacks(family, proto); err != nil {
				return err
			}
			each(Socket{})
			return nil
		})
		if len(got) != test.n || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func when(is bool, err error) error {
	if is {
		return err
	}
	return nil
}
