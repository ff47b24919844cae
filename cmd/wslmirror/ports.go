package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// showPorts is "ports", "ports explain PORT", which may be "ports PORT", and "ports
// free N".
func showPorts(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("ports", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	from := flags.String("from", "", "")
	dir := runtimeDir(flags)
	words, err := parseAll(flags, args)
	if err != nil {
		return usageExit(err, stdout)
	}
	if *from != "" && (len(words) == 0 || words[0] != "free") {
		return exitUsage, usageError("--from is for 'ports free'")
	}
	if len(words) == 1 && strings.IndexAny(words[0], "0123456789") == 0 {
		words = []string{"explain", words[0]}
	}
	switch {
	case len(words) == 0:
		return listPorts(*dir, *asJSON, stdout)
	case words[0] == "free" && len(words) > 2:
		return exitUsage, usageError("ports free takes one number, and no argument %q", words[2])
	case words[0] == "free":
		n := uint64(1)
		if len(words) == 2 {
			if n, err = strconv.ParseUint(words[1], 10, 16); err != nil || n == 0 {
				return exitUsage, usageError("ports free: %q is not a number of ports", words[1])
			}
		}
		port, proto, err := parsePort(cmp.Or(*from, "8080"))
		if err != nil {
			return exitUsage, err
		}
		return freePorts(*dir, int(n), port, proto, *asJSON, stdout)
	case words[0] != "explain":
		return exitUsage, usageError("ports takes no argument %q%s", words[0], suggestion(words[0], []string{"explain", "free"}))
	case len(words) == 1:
		return exitUsage, usageError("ports explain needs a port, for example 8080 or 5353/udp")
	case len(words) > 2:
		return exitUsage, usageError("ports explain takes one port, and no argument %q", words[2])
	}
	port, proto, err := parsePort(words[1])
	if err != nil {
		return exitUsage, err
	}
	return explainPort(*dir, port, proto, *asJSON, stdout)
}

// parsePort reads a port as "8080", "8080/tcp" or "5353/udp".
func parsePort(s string) (port uint16, proto string, err error) {
	number, proto, found := strings.Cut(s, "/")
	if !found {
		proto = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || number[0] == '+' {
		return 0, "", usageError("%q is not a port: a number from 1 to 65535, as in 8080 or 5353/udp", s)
	}
	if proto != "tcp" && proto != "udp" {
		return 0, "", usageError("%q is not a protocol: tcp or udp", proto)
	}
	return uint16(n), proto, nil
}

// portFacts are all known facts about ports.
type portFacts struct {
	mode, version string // of WSL, "" if unknown
	mirrored      bool   // WSL mirrors Windows' network, and has reserved a block
	shared        bool   // Windows and Linux share localhost
	daemon        status.Snapshot
	daemonErr     error
	hold          ports.Hold
	listeners     []ports.Listener
	socketsErr    error // what of them is missing
	block         ports.Block
	windows       map[string]windows.Ports // by protocol
}

// lookAtPorts collects the facts for some protocols. Windows may not answer:
// its errors are part of the facts.
func lookAtPorts(dir string, protos ...string) (f portFacts, err error) {
	ctx := context.Background()
	f.windows = map[string]windows.Ports{}
	answers := make([]windows.Ports, len(protos))
	var asking sync.WaitGroup
	for i, proto := range protos {
		asking.Go(func() { answers[i] = windows.Ask(ctx, proto) })
	}
	var kernel netwatch.Mode
	asking.Go(func() {
		// The kernel's answer counts, and takes no time. wslinfo knows the modes that
		// the kernel does not show.
		if _, kernel = kernelMode(status.DefaultInterface); !kernel.Shares() {
			f.mode, _ = windows.NetworkingMode(ctx)
		}
	})
	asking.Go(func() { f.version, _ = windows.Version(ctx) })

	if f.daemon, f.daemonErr = current(dir); f.daemonErr != nil {
		f.daemon = stopped()
	}
	f.hold = ports.ReadHold(dir)
	if f.listeners, err = ports.Listeners(); errors.Is(err, sockdiag.ErrNoUDP) {
		f.socketsErr, err = err, nil
	}
	if err == nil {
		f.block, err = ports.ReadBlock(reservedInWindows(f.daemon))
	}
	asking.Wait()
	for i, proto := range protos {
		f.windows[proto] = answers[i]
	}
	if kernel.Shares() {
		f.mode = string(kernel)
	}
	f.mirrored = kernel.Mirrors() || f.mode == "mirrored" // its link may be missing
	f.shared = f.mirrored || kernel.Shares()
	for i := range f.daemon.Ports {
		p := &f.daemon.Ports[i]
		p.Holder, p.HolderReason = f.hold.Holder(*p, f.listeners, f.refused)
	}
	return f, err
}

// reservedInWindows is the block that WSL has reserved, according to the
// daemon or, without one, to the ruleset, which only root can read.
func reservedInWindows(s status.Snapshot) ports.Range {
	if p := s.SourcePorts; p != nil {
		return *p
	}
	reader, err := ruleset.OpenReader(nft.TableName)
	if err != nil {
		return ports.Range{}
	}
	defer reader.Close()
	var block ports.Range
	if _, err = reader.Read(func(rs *ruleset.Ruleset) error {
		block.First, block.Last = rs.SourcePorts()
		return nil
	}); err != nil {
		return ports.Range{}
	}
	return block
}

func listPorts(dir string, asJSON bool, stdout io.Writer) (int, error) {
	f, err := lookAtPorts(dir, "tcp", "udp")
	if err != nil {
		return exitFailure, err
	}
	if asJSON {
		err = writeJSON(stdout, f.json())
	} else {
		_, err = io.WriteString(stdout, f.text(screenOf(stdout)))
	}
	if err != nil {
		return exitFailure, fmt.Errorf("print: %w", err)
	}
	return exitOK, nil
}

// refused says why Windows refuses a port.
func (f portFacts) refused(port uint16, proto string) string { return f.of(proto).Refused(port) }

// of are the facts about one protocol.
func (f portFacts) of(proto string) ports.Facts {
	return ports.Facts{
		Proto:     proto,
		Mirrored:  f.mirrored,
		Consomme:  f.shared && !f.mirrored,
		Version:   f.version,
		Block:     f.block,
		Listeners: f.listeners,
		Published: f.daemon.Ports,
		Windows:   f.windows[proto],
	}
}

func explainPort(dir string, port uint16, proto string, asJSON bool, stdout io.Writer) (int, error) {
	f, err := lookAtPorts(dir, proto)
	if err != nil {
		return exitFailure, err
	}
	v := ports.Explain(f.of(proto), port)
	v.Notes = append(v.Notes, f.notes()...)
	if asJSON {
		err = writeJSON(stdout, explainJSON{schema, v})
	} else {
		_, err = io.WriteString(stdout, verdictText(screenOf(stdout), v))
	}
	if err != nil {
		return exitFailure, fmt.Errorf("print: %w", err)
	}
	switch v.State {
	case ports.Free:
		return exitOK, nil
	case ports.Unknown:
		return exitUnknown, nil
	}
	return exitFailure, nil
}

// An explainJSON is the JSON of "ports explain --json".
type explainJSON struct {
	Schema int `json:"schema"`
	ports.Verdict
}

// A freeJSON is the JSON of "ports free --json".
type freeJSON struct {
	Schema int         `json:"schema"`
	Proto  string      `json:"proto"`
	State  ports.State `json:"state"` // free, or unknown
	Ports  []uint16    `json:"free_ports"`
	Notes  []string    `json:"notes"`
}

func freePorts(dir string, n int, from uint16, proto string, asJSON bool, stdout io.Writer) (int, error) {
	f, err := lookAtPorts(dir, proto)
	if err != nil {
		return exitFailure, err
	}
	list := f.free(proto, from, n)
	if len(list.Ports) < n {
		return exitFailure, fmt.Errorf("from port %d on, only %d of %d ports are free", from, len(list.Ports), n)
	}
	if asJSON {
		err = writeJSON(stdout, list)
	} else {
		_, err = io.WriteString(stdout, list.text(screenOf(stdout)))
	}
	if err != nil {
		return exitFailure, fmt.Errorf("print: %w", err)
	}
	if list.State == ports.Unknown {
		return exitUnknown, nil
	}
	return exitOK, nil
}

// free are the first n ports from one on that may be proposed.
func (f portFacts) free(proto string, from uint16, n int) freeJSON {
	facts := f.of(proto)
	list := freeJSON{schema, proto, ports.Free, facts.Free(from, n), append([]string{}, f.notes()...)} // never null
	if facts.Asked() {
		return list
	}
	list.State = ports.Unknown
	for _, line := range windows.Summary(facts.Windows.Problems()...) {
		list.Notes = append(list.Notes, "Windows could not be asked: "+line)
	}
	return list
}

// notes say what could not be read in Linux.
func (f portFacts) notes() (list []string) {
	if f.socketsErr != nil {
		list = append(list, f.socketsErr.Error())
	}
	if note := f.daemonNote(); note != "" {
		list = append(list, note)
	}
	return list
}

// daemonNote says why the published ports are unknown, "" if they are known.
func (f portFacts) daemonNote() string {
	switch {
	case f.daemonErr != nil:
		return "the published ports are unknown: " + f.daemonErr.Error()
	case f.daemon.State == status.Stopped:
		return "the published ports are unknown: wslmirror is not running"
	case f.daemon.State == status.Error:
		return "the published ports may be out of date: " + f.daemon.Reason
	}
	return ""
}
