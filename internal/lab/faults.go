package lab

import (
	"fmt"

	"github.com/google/nftables"
)

// AddLoopback0 plugs loopback0 in, with a new interface index, and sets it up
// as WSL does. It is for a bench without one: see Options.NoLoopback0 and
// RemoveLoopback0.
func (b *Bench) AddLoopback0() error { return b.connectWindows() }

// RemoveLoopback0 takes loopback0 away. Its routes and neighbours go with it;
// the rules that name it stay, as the kernel has it.
func (b *Bench) RemoveLoopback0() error {
	link, err := b.WSL.Net.LinkByName(loopback0)
	if err == nil {
		err = b.WSL.Net.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", loopback0, err)
	}
	return nil
}

// Loopback0Down sets loopback0 down. Its routes and neighbours go.
func (b *Bench) Loopback0Down() error {
	link, err := b.WSL.Net.LinkByName(loopback0)
	if err == nil {
		err = b.WSL.Net.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("set down %s: %w", loopback0, err)
	}
	return nil
}

// Loopback0Up sets loopback0 up again and restores what Loopback0Down took.
func (b *Bench) Loopback0Up() error { return b.mirrorLoopback() }

// FlushRuleset does in WSL what `nft flush ruleset` does. WSL's own chains go
// too and nobody adds them again.
func (b *Bench) FlushRuleset() error {
	c, err := b.WSL.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		return fmt.Errorf("flush ruleset: %w", err)
	}
	return nil
}

// DeleteTable does in WSL what `nft delete table` does. The error is the
// kernel's: ENOENT if there is no such table, EPERM if it is owned.
func (b *Bench) DeleteTable(family nftables.TableFamily, name string) error {
	c, err := b.WSL.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	c.DelTable(&nftables.Table{Family: family, Name: name})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete table %s: %w", name, err)
	}
	return nil
}

// FlushTable does in WSL what `nft flush table` does: the table keeps its chains
// and loses their rules. The errors are those of DeleteTable.
func (b *Bench) FlushTable(family nftables.TableFamily, name string) error {
	c, err := b.WSL.NFT()
	if err != nil {
		return fmt.Errorf("open nftables of WSL: %w", err)
	}
	c.FlushTable(&nftables.Table{Family: family, Name: name})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("flush table %s: %w", name, err)
	}
	return nil
}
