package field

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/wslmirror/wslmirror/internal/hold"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A Held is what Windows does with a port of Linux that no socket of IPv4 has announced.
type Held struct {
	What string `json:"what"`
	Answer
}

// askHeld asks Windows whether it may bind ports, and what it sends to Linux: a port that
// nobody has, one on which Linux listens, and ports that are held on [::1].
func askHeld(ctx context.Context, windows interop, linux *lab.Host, mode netwatch.Mode, served uint16, free *finder) (list []Held, err error) {
	var held [3]uint16 // by TCP, by UDP, by nobody
	for i := range held {
		if held[i], err = free.quiet(); err != nil {
			return nil, err
		}
	}
	var open []io.Closer
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	closing := func(proto string, port uint16) error {
		return linux.Do(func() error {
			fd, err := hold.OpenIPv6(hold.Port{Proto: proto, Number: port})
			if err == nil {
				open = append(open, os.NewFile(uintptr(fd), proto))
			}
			return err
		})
	}
	// What the bench's Windows, and the source of WSL's own, do. In consomme Windows
	// listens on each address by itself, so [::1] says nothing of 127.0.0.1.
	byHeld, sent := Outcomes{InUse}, answers
	if mode == netwatch.Consomme {
		byHeld, sent = Outcomes{Bound}, fails
	}

	// First without a holder: what is not announced must not be sent.
	unannounced, errMPTCP := serveUnannounced(linux, held[0])
	if errMPTCP == nil {
		open = append(open, unannounced)
	}
	deliver := func(what string, bench Outcomes) {
		a := Answer{Outcome: NotChecked}
		if errMPTCP != nil {
			a.Detail = errMPTCP.Error()
		} else {
			a = windows.byCurl(ctx, Question{From: Windows, Proto: "TCP", At: at(held[0]), Want: string(Linux)})
		}
		a.Bench = bench
		list = append(list, Held{what, a})
	}
	deliver("Windows → a server of Linux whose port was not announced (MPTCP)", fails)
	if err := errors.Join(closing("tcp", held[0]), closing("udp", held[1])); err != nil {
		return list, err
	}
	deliver("the same, the port held on [::1]", sent)

	questions := []struct {
		what string
		task task
		Outcomes
	}{
		{"Windows, a TCP port that nobody has", task{"bind-tcp", at(held[2]), 1}, Outcomes{Bound}},
		{"Windows, a TCP port on which Linux listens", task{"bind-tcp", at(served), 1}, Outcomes{InUse}},
		{"Windows, a TCP port held on [::1]", task{"bind-tcp", at(held[0]), 1}, byHeld},
		{"Windows, a UDP port that nobody has", task{"bind-udp", at(held[2]), 1}, Outcomes{Bound}},
		{"Windows, a UDP port on which Linux listens", task{"bind-udp", at(served), 1}, Outcomes{InUse}},
		{"Windows, a UDP port held on [::1]", task{"bind-udp", at(held[1]), 1}, byHeld},
	}
	var tasks []task
	for _, q := range questions {
		tasks = append(tasks, q.task)
	}
	for i, a := range windows.byPowerShell(ctx, tasks) {
		a.Bench = questions[i].Outcomes
		list = append(list, Held{questions[i].what, a})
	}
	return list, nil
}

func at(port uint16) netip.AddrPort { return netip.AddrPortFrom(ruleset.Localhost, port) }

// serveUnannounced serves on a port of which Windows does not hear.
func serveUnannounced(linux *lab.Host, port uint16) (io.Closer, error) {
	on, err := os.ReadFile("/proc/sys/net/mptcp/enabled")
	if err != nil || strings.TrimSpace(string(on)) != "1" {
		return nil, errors.New("this kernel has no MPTCP")
	}
	return linux.ServeMPTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
}
