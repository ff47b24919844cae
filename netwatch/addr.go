package netwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ReadPrefixes reads the IPv4 addresses of all links, with their networks, by
// the index of the link. As for Read, after an error the LinkReader should be
// closed.
func (r *LinkReader) ReadPrefixes() (map[int][]netip.Prefix, error) {
	request := make([]byte, unix.SizeofIfAddrmsg)
	request[0] = unix.AF_INET
	msgs, err := r.dump(unix.RTM_GETADDR, request)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	all := map[int][]netip.Prefix{}
	for _, m := range msgs {
		index, p, err := decodeAddr(m.Data)
		if err != nil {
			return nil, fmt.Errorf("decode address: %w", err)
		}
		if p.IsValid() {
			all[index] = append(all[index], p)
		}
	}
	return all, nil
}

// decodeAddr decodes an ifaddrmsg and its attributes (rtnetlink(7)).
func decodeAddr(b []byte) (index int, p netip.Prefix, err error) {
	const bitsAt, indexAt = 1, 4
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, p, fmt.Errorf("a message of %d bytes", len(b))
	}
	index = int(binary.NativeEndian.Uint32(b[indexAt:]))
	// The address of the link itself; IFA_ADDRESS is the other end's where there
	// is one.
	err = attributes(b[unix.SizeofIfAddrmsg:], func(ad *netlink.AttributeDecoder) {
		if a, ok := netip.AddrFromSlice(ad.Bytes()); ad.Type() == unix.IFA_LOCAL && ok && a.Is4() {
			p = netip.PrefixFrom(a, int(b[bitsAt]))
		}
	})
	return index, p, err
}

// SetRouteLocalnet sets the sysctl route_localnet of a link. It needs
// CAP_NET_ADMIN and no file under /proc/sys: inet_set_link_af in the kernel's
// net/ipv4/devinet.c takes all sysctls of a link by their numbers. That the link
// is gone is not an error.
func (r *LinkReader) SetRouteLocalnet(index int, on bool) error {
	if err := r.conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
		return fmt.Errorf("set the deadline of netlink: %w", err)
	}
	value := uint32(0)
	if on {
		value = 1
	}
	ae := netlink.NewAttributeEncoder()
	ae.Nested(unix.IFLA_AF_SPEC, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(unix.AF_INET, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(inetConf, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(confRouteLocalnet, value)
				return nil
			})
			return nil
		})
		return nil
	})
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	request := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(request[4:], uint32(index))
	_, err = r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_SETLINK, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(request, attrs...),
	})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set route_localnet of link %d: %w", index, err)
	}
	return nil
}
