package chaos

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// write writes the engine's rules, all in one transaction, if it has any.
func (e *engine) write() error {
	if !e.rules {
		return e.w.nudge() // nobody tells that a port is bound now
	}
	return e.w.nft(e.script())
}

// restart takes the engine's rules away and writes them anew.
func (e *engine) restart() error {
	if e.rules {
		if err := e.w.nft(e.empty()); err != nil {
			return err
		}
	}
	e.rules = true
	return e.write()
}

// empty is the script that removes what is in the engine's chains.
func (e *engine) empty() string {
	if e.proxy {
		return "flush chain ip nat DOCKER\nflush chain ip nat PREROUTING\nflush chain ip nat OUTPUT\nflush chain ip nat POSTROUTING\nflush chain ip raw PREROUTING\n"
	}
	return fmt.Sprintf("delete table %s\n", e.table)
}

// script is the engine's rules: those of Docker 20.10, with the drop of Docker
// 28 that did not know of loopback0 (moby#53382), or those of netavark. Those of portmap
// differ from these by their names.
func (e *engine) script() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if e.proxy {
		add("add table ip nat\nadd table ip raw\nadd chain ip nat DOCKER")
		add("add chain ip nat PREROUTING { type nat hook prerouting priority dstnat; }")
		add("add chain ip nat OUTPUT { type nat hook output priority -100; }")
		add("add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }")
		add("add chain ip raw PREROUTING { type filter hook prerouting priority raw; }")
		b.WriteString(e.empty())
		add("add rule ip nat PREROUTING fib daddr type local counter jump DOCKER")
		add("add rule ip nat OUTPUT ip daddr != 127.0.0.0/8 fib daddr type local counter jump DOCKER")
	} else {
		add("add table %s\ndelete table %[1]s\nadd table %[1]s\nadd chain %[1]s %s", e.table, e.chain)
		add("add chain %s PREROUTING { type nat hook prerouting priority dstnat; }", e.table)
		add("add chain %s OUTPUT { type nat hook output priority -100; }", e.table)
		add("add chain %s POSTROUTING { type nat hook postrouting priority srcnat; }", e.table)
		add("add rule %s PREROUTING fib daddr type local counter jump %s", e.table, e.chain)
		add("add rule %s OUTPUT fib daddr type local counter jump %s", e.table, e.chain)
		add("add rule %s POSTROUTING meta mark & 0x2000 == 0x2000 counter masquerade", e.table)
	}
	for _, br := range e.bridges {
		if !br.there {
			continue
		}
		if e.proxy {
			add("add rule ip nat DOCKER iifname %q counter return", br.name)
			add("add rule ip nat POSTROUTING oifname != %q ip saddr %s counter masquerade", br.name, br.addr.Masked())
		} else {
			add("add rule %s POSTROUTING ip saddr %s ip daddr != { 224.0.0.0/4, %[2]s } counter masquerade", e.table, br.addr.Masked())
		}
	}
	for _, p := range e.published() {
		match := ""
		if p.addr != anyAddr {
			match = "ip daddr " + p.addr + " "
		}
		match += fmt.Sprintf("%s dport %d", p.proto, p.number)
		to := netip.AddrPortFrom(p.to.addr.Addr(), 80)
		if !e.proxy {
			add("add rule %s %s ip saddr 127.0.0.1 %s counter meta mark set meta mark | 0x2000", e.table, e.chain, match)
			add("add rule %s %s %s counter dnat ip to %s", e.table, e.chain, match, to)
			continue
		}
		add("add rule ip nat DOCKER iifname != %q %s counter dnat to %s", p.to.bridge.name, match, to)
		if p.addr == localhost {
			add(`add rule ip raw PREROUTING iifname != "lo" %s counter drop`, match)
		}
	}
	return b.String()
}

// nft runs a script of nft in WSL.
func (w *world) nft(script string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := w.bench.WSL.Start(cmd)
	if err == nil {
		err = p.Wait()
	}
	if err != nil {
		return fmt.Errorf("nft: %w: %s", err, out.String())
	}
	return nil
}
