package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A forger sends from containers what they must not send: packets to 127.0.0.1, and
// packets from there. Nobody may hear of them while a daemon serves, also on the bridges
// that it opens for its own packets.
type forger struct {
	servers []io.Closer

	mu    sync.Mutex
	heard []string
}

// forged is what the packets say.
const forged = "forged"

// forgedPort is that of a server of Linux, which has it on all its addresses.
const forgedPort = 9003

// buildForger starts the servers that hear of forged packets, and sees that they do
// while there is no daemon.
func (w *world) buildForger() error {
	if err := w.forger.listen(w.bench.WSL, at(anyAddr, forgedPort)); err != nil {
		return err
	}
	if err := w.forger.listen(w.bench.Windows, at(localhost, windowsUDP)); err != nil {
		return err
	}
	for deadline := time.Now().Add(lab.Scaled(30 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		if err := w.forge(); err != nil {
			return err
		}
		if heard := w.forger.reset(); heard != nil {
			return nil
		} else if time.Now().After(deadline) {
			return errors.New("nobody hears of forged packets without wslmirror, so that nothing would be tested")
		}
	}
}

// listen serves datagrams on a host, as ServeEcho does, and notes those that are forged.
func (f *forger) listen(h *lab.Host, addr string) error {
	return h.Do(func() error {
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return err
		}
		f.servers = append(f.servers, c)
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := c.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if string(buf[:n]) != forged {
					_, _ = c.WriteTo([]byte(h.Name), from)
					continue
				}
				f.mu.Lock()
				f.heard = append(f.heard, fmt.Sprintf("%s hears of a forged packet from %s", h.Name, from))
				f.mu.Unlock()
			}
		}()
		return nil
	})
}

func (f *forger) close() (err error) {
	for _, s := range f.servers {
		err = errors.Join(err, s.Close())
	}
	return err
}

// reset returns what was heard, and forgets it.
func (f *forger) reset() (heard []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	heard, f.heard = f.heard, nil
	return heard
}

// forgeInVain forges while a daemon serves.
func (w *world) forgeInVain() error {
	if !w.serving() {
		return nil
	}
	w.forger.reset() // on a slow machine, what was forged while there was no daemon may come late
	if err := w.forge(); err != nil {
		return err
	}
	if heard := w.forger.reset(); heard != nil {
		return errors.New(strings.Join(heard, "\n"))
	}
	return nil
}

// forge has each container forge each packet that it can. The links of the bench deliver
// a packet before the call that sends it returns.
func (w *world) forge() error {
	localhost := netip.MustParseAddr(localhost)
	for _, e := range w.engines() {
		for _, c := range e.plugged() {
			bridge, err := w.bench.WSL.Net.LinkByName(c.bridge.name)
			if err != nil {
				return err
			}
			own, gateway := c.addr.Addr(), c.bridge.addr.Addr()
			var packets [][]byte
			for _, port := range []uint16{forgedPort, windowsUDP} {
				packets = append(packets, datagram(own, localhost, port), datagram(localhost, localhost, port), datagram(localhost, gateway, port))
			}
			if err := send(c.host, bridge.Attrs().HardwareAddr, packets); err != nil {
				return fmt.Errorf("%s forges: %w", c.host.Name, err)
			}
		}
	}
	return nil
}

// send has a container send packets to its gateway, past its own routes.
func send(h *lab.Host, to net.HardwareAddr, packets [][]byte) error {
	link, err := h.Net.LinkByName("eth0")
	if err != nil {
		return err
	}
	dest := unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: ethIP, Halen: uint8(len(to))}
	copy(dest.Addr[:], to)
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, &dest); err != nil {
				return err
			}
		}
		return nil
	})
}

// ethIP is ETH_P_IP as a socket address has it, in network byte order.
var ethIP = binary.NativeEndian.Uint16([]byte{0x08, 0x00})

// datagram is a packet of IPv4 and UDP that says that it is forged.
func datagram(from, to netip.Addr, port uint16) []byte {
	const ipLen, udpLen, ttl = 20, 8, 64
	p := []byte{0x45, 0}
	p = binary.BigEndian.AppendUint16(p, ipLen+udpLen+uint16(len(forged)))
	p = append(p, 0, 0, 0, 0, ttl, unix.IPPROTO_UDP, 0, 0)
	p = append(append(p, from.AsSlice()...), to.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < ipLen; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	const checksum = 10
	binary.BigEndian.PutUint16(p[checksum:], ^uint16(sum+sum>>16))
	p = binary.BigEndian.AppendUint16(p, port) // its source
	p = binary.BigEndian.AppendUint16(p, port)
	p = binary.BigEndian.AppendUint16(p, udpLen+uint16(len(forged)))
	p = append(p, 0, 0) // no checksum
	return append(p, forged...)
}
