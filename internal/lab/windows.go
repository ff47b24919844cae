package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab/tracker"
)

const (
	mirrorTable  = "mirror"
	hairpinChain = "hairpin"

	// followEvery is how soon Windows learns that Linux has bound a port. The
	// bench's own clients do not wait for it.
	followEvery = 200 * time.Millisecond
)

// An owner decides, as Windows does, who owns a port of 127.0.0.1 and, in
// mirrored-hal, of the LAN address that it shares with Linux: Linux, if
// somebody there has bound it, or if it is in the block of source ports.
// Then Windows sends the packet back to where it came from:
//
//	table ip mirror {
//	  chain ingress {
//	    type filter hook prerouting priority raw
//	    iifname != "vEthernet" accept
//	    ip daddr 127.0.0.1 th dport 60700-60999 goto hairpin
//	    ip daddr 127.0.0.1 meta l4proto . th dport @linux goto hairpin
//	  }
//	  chain hairpin { counter; meta mark set 1 }
//	}
//
// The rest is Windows' own.
type owner struct {
	bench   *Bench
	ports   portSource
	windows *nftables.Conn

	mu               sync.Mutex // held while the ports are read and handed to Windows
	loopback, shared linuxPorts
	has              []port // what is in the sets

	stop, stopped chan struct{}
}

// linuxPorts is a set of the ports that Linux has, or the zero value as long as
// there is none.
type linuxPorts struct {
	nft *nftables.Conn
	set *nftables.Set
}

// A portSource tells which ports Linux has, sorted: boundPorts or trackedPorts.
type portSource interface {
	list() ([]port, error)
	close() error
}

func newOwner(b *Bench, track *tracker.Options) (*owner, error) {
	windows, err := b.Windows.NFT(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables of Windows: %w", err)
	}
	o := &owner{
		bench: b, windows: windows,
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if track != nil {
		err = o.trackPorts(*track)
	} else {
		o.ports, err = newBoundPorts(b.WSL)
	}
	if err != nil {
		return nil, errors.Join(err, windows.CloseLasting())
	}
	go o.follow()
	return o, nil
}

// install writes the chains on the link that Windows has now.
func (o *owner) install() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := leaveMarked(o.bench.Windows, windowsNIC, localhost, backTable, o.bench.loopback0MAC()); err != nil {
		return err
	}
	ingress := addHairpin(o.windows, windowsNIC)
	set, err := o.bench.addOwnership(o.windows, ingress, localhost, gotoHairpin)
	if err != nil {
		return err
	}
	if err := o.windows.Flush(); err != nil {
		return fmt.Errorf("add Windows' chains: %w", err)
	}
	o.loopback, o.has = linuxPorts{o.windows, set}, nil
	if o.shared, err = o.bench.addSharedChains(); err != nil {
		return err
	}
	return o.refreshLocked()
}

// addOwnership adds the rules to ingress that do verdict to a packet for to if Linux
// owns its port, and returns the set of what Linux has bound.
func (b *Bench) addOwnership(c *nftables.Conn, ingress *nftables.Chain, to netip.Addr, verdict []expr.Any) (*nftables.Set, error) {
	set := &nftables.Set{
		Table: ingress.Table, Name: "linux", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
	if err := c.AddSet(set, nil); err != nil {
		return nil, fmt.Errorf("add the set of Linux' ports: %w", err)
	}
	toAddr := matchAddr(daddr, expr.CmpOpEq, single(to))
	addRules(c, ingress,
		[][]expr.Any{toAddr, matchPorts(dport, b.FirstPort, b.LastPort), verdict},
		[][]expr.Any{toAddr, {
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
			&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseTransportHeader, Offset: dport, Len: 2},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set.Name, SetID: set.ID},
		}, verdict},
	)
	return set, nil
}

// toLinux returns an error if Windows sends to Linux nothing of what is for addr. Without
// a tracker it sends all: whoever asks for a port knows that Linux has it.
func (o *owner) toLinux(proto, addr string) error {
	if err := o.look(); err != nil {
		return err
	}
	at, err := netip.ParseAddrPort(addr)
	if err != nil || o.bench.Tracker == nil || at.Addr() != localhost {
		return err
	}
	number := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[proto]
	o.mu.Lock()
	defer o.mu.Unlock()
	if slices.Contains(o.has, port{number, at.Port()}) || o.bench.mode != Consomme && o.bench.FirstPort <= at.Port() && at.Port() <= o.bench.LastPort {
		return nil
	}
	return fmt.Errorf("%s %s: Linux has no such port, as far as Windows knows: %w", proto, addr, unix.ECONNREFUSED)
}

// look is refresh for what ended without a word as well.
func (o *owner) look() error {
	if t := o.bench.Tracker; t != nil {
		if err := t.Poll(); err != nil {
			return err
		}
	}
	return o.refresh()
}

// refresh tells Windows which ports Linux has bound now.
func (o *owner) refresh() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refreshLocked()
}

func (o *owner) refreshLocked() error {
	ports, err := o.ports.list()
	if err != nil {
		return err
	}
	if slices.Equal(ports, o.has) {
		return nil
	}
	var elements []nftables.SetElement
	for _, p := range ports {
		elements = append(elements, nftables.SetElement{Key: p.key()})
	}
	for _, known := range []linuxPorts{o.loopback, o.shared} {
		if known.set == nil {
			continue
		}
		known.nft.FlushSet(known.set)
		if err := known.nft.SetAddElements(known.set, elements); err != nil {
			return fmt.Errorf("hand the ports to Windows: %w", err)
		}
		if err := known.nft.Flush(); err != nil {
			return fmt.Errorf("hand the ports to Windows: %w", err)
		}
	}
	o.has = ports
	return nil
}

// forgetShared is for when the shared address goes.
func (o *owner) forgetShared() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shared = linuxPorts{}
}

// follow looks for programs that are not the bench's own.
func (o *owner) follow() {
	defer close(o.stopped)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-o.stop:
			return
		case <-tick.C:
			_ = o.look() // a lasting error meets the next client
		}
	}
}

func (o *owner) close() error {
	close(o.stop)
	<-o.stopped
	return errors.Join(o.windows.CloseLasting(), o.ports.close())
}

// Returned is the number of packets that Windows has sent back to Linux since
// loopback0 was added last.
func (b *Bench) Returned() (packets uint64, err error) {
	c, err := b.Windows.NFT()
	if err != nil {
		return 0, fmt.Errorf("open nftables of Windows: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: mirrorTable}
	rules, err := c.GetRules(table, &nftables.Chain{Name: hairpinChain, Table: table})
	if err != nil {
		return 0, fmt.Errorf("read the counter of Windows: %w", err)
	}
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				packets += counter.Packets
			}
		}
	}
	return packets, nil
}
