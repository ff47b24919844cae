package lab

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// elsewhere0 is the name that loopback0 has meanwhile.
const elsewhere0 = "elsewhere0"

// RenameLoopback0 gives loopback0 another name, and NameLoopback0 its own again.
// It stays up, and keeps its index and its routes.
func (b *Bench) RenameLoopback0() error { return b.rename(loopback0, elsewhere0) }

// NameLoopback0 is the contrary of RenameLoopback0.
func (b *Bench) NameLoopback0() error {
	if err := b.rename(elsewhere0, loopback0); err != nil {
		return err
	}
	return b.mirrorLoopback()
}

func (b *Bench) rename(from, to string) error {
	link, err := b.WSL.Net.LinkByName(from)
	if err == nil {
		err = b.WSL.Net.LinkSetName(link, to)
	}
	if errors.Is(err, unix.EBUSY) { // before Linux 6.2 a link that is up keeps its name
		if err = b.WSL.Net.LinkSetDown(link); err == nil {
			err = b.WSL.Net.LinkSetName(link, to)
		}
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}

// MoveLoopback0Out moves loopback0 into the network namespace of the LAN's
// machine, and MoveLoopback0In back.
func (b *Bench) MoveLoopback0Out() error { return move(b.WSL.Net, b.LAN) }

// MoveLoopback0In is the contrary of MoveLoopback0Out. The link keeps its index
// unless another one has it by now, and nothing else.
func (b *Bench) MoveLoopback0In() error {
	if err := move(b.LAN.Net, b.WSL); err != nil {
		return err
	}
	return b.mirrorLoopback()
}

func move(from *netlink.Handle, to *Host) error {
	link, err := from.LinkByName(loopback0)
	if err == nil {
		err = from.LinkSetNsFd(link, to.NetNS())
	}
	if err != nil {
		return fmt.Errorf("move %s to %s: %w", loopback0, to.Name, err)
	}
	return nil
}

// SetLink sets a link of WSL up or down.
func (b *Bench) SetLink(name string, up bool) error {
	set := b.WSL.Net.LinkSetDown
	if up {
		set = b.WSL.Net.LinkSetUp
	}
	link, err := b.WSL.Net.LinkByName(name)
	if err == nil {
		err = set(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up or down: %w", name, err)
	}
	return nil
}

// RestoreWSLChains adds WSL's own chains again after FlushRuleset. In the field
// nobody does, until the VM is started again.
func (b *Bench) RestoreWSLChains() error {
	if b.mode == Consomme {
		return nil
	}
	if err := b.removeWSLChains(); err != nil {
		return err
	}
	return b.addWSLChains()
}

// SetUpAgain gives WSL's network the chains, the ip rules and the route of table 127
// with which it starts, whatever is left of them.
func (b *Bench) SetUpAgain() error {
	if err := b.RestoreWSLChains(); err != nil {
		return err
	}
	if err := b.mirrorLoopback(); err != nil {
		return err
	}
	return mirrorRules(b.WSL)
}
