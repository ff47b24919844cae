package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/sockdiag"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// showTrace is "trace PORT".
func showTrace(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("trace", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	from := flags.String("from", "", "")
	var live liveFlag
	flags.Var(&live, "live", "")
	words, err := parseAll(flags, args)
	if err == nil && live > 0 {
		words, err = live.seconds(args, words)
	}
	switch {
	case err != nil:
		return usageExit(err, stdout)
	case len(words) == 0:
		return exitUsage, usageError("trace needs a port, for example 8080 or 5353/udp")
	case len(words) > 1:
		return exitUsage, usageError("trace takes one port, and no argument %q", words[1])
	}
	number, proto, err := parsePort(words[0])
	if err != nil {
		return exitUsage, err
	}
	port := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: number}
	if proto == "udp" {
		port.Proto = unix.IPPROTO_UDP
	}
	questions, err := questionsOf(port, *from)
	if err != nil {
		return exitUsage, err
	}
	traces, tally, err := traceAll(questions)
	if err != nil {
		return exitFailure, err
	}
	if !*asJSON {
		err = printTraces(stdout, screenOf(stdout), port, traces)
	}
	var seen *liveReport
	if live > 0 && err == nil {
		var r liveReport
		if r, err = watchPackets(port, tally, live, sayTo(*asJSON, stdout)); err != nil {
			return exitFailure, err
		}
		seen = &r
	}
	switch {
	case err != nil:
	case *asJSON:
		err = writeJSON(stdout, traceDocument{schema, number, proto, traces, seen})
	case seen != nil:
		err = printLive(stdout, screenOf(stdout), port, *seen)
	}
	if err != nil {
		return exitFailure, fmt.Errorf("print: %w", err)
	}
	code := exitOK
	for _, t := range traces {
		switch {
		case t.Verdict == trace.Stops:
			return exitFailure, nil
		case t.Verdict == trace.Unknown:
			code = exitUnknown
		}
	}
	return code, nil
}

// A traceDocument is what "trace --json" prints.
type traceDocument struct {
	Schema int           `json:"schema"`
	Port   uint16        `json:"port"`
	Proto  string        `json:"proto"`
	Traces []trace.Trace `json:"traces"`
	Live   *liveReport   `json:"live,omitempty"`
}

// questionsOf are the questions for a value of the flag --from.
func questionsOf(port ruleset.Port, from string) ([]trace.Question, error) {
	container, is := strings.CutPrefix(from, "container:")
	switch {
	case from == "":
		return []trace.Question{{Port: port, From: trace.Windows}, {Port: port, From: trace.Linux}}, nil
	case from == "windows", from == "linux", from == "lan":
		return []trace.Question{{Port: port, From: trace.Client(from)}}, nil
	case !is || container == "":
		return nil, usageError("unknown client %q: use windows, linux, lan or container:NAME", from)
	}
	addr, err := netip.ParseAddr(container)
	if err != nil {
		addr, err = containerAddr(container)
	}
	return []trace.Question{{Port: port, From: trace.Container, Addr: addr}}, err
}

// containerAddr asks the engines for the address of a container.
func containerAddr(name string) (addr netip.Addr, err error) {
	for _, engine := range []string{"docker", "podman"} {
		out, _ := exec.Command(engine, "inspect", "--type", "container", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "--", name).Output()
		for _, word := range strings.Fields(string(out)) {
			if addr, err = netip.ParseAddr(word); err == nil && addr.Is4() {
				return addr, nil
			}
		}
	}
	return addr, usageError("no engine reports an address for a container %q; give the address instead: --from container:172.17.0.2", name)
}

// traceAll answers the questions from one reading of the ruleset. The Tally can then count
// packets and compare them with the answers.
func traceAll(questions []trace.Question) (traces []trace.Trace, tally *trace.Tally, err error) {
	c, err := netwatch.Open()
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	o := &trace.Observation{Link: status.DefaultInterface, Route: c.Route, Inside: insides()}
	var errs [4]error
	o.Links, errs[0] = c.Links()
	o.Prefixes, errs[1] = c.Prefixes()
	o.Rules, errs[2] = c.Rules()
	o.Listeners, errs[3] = ports.Listeners()
	if o.NoUDP = errors.Is(errs[3], sockdiag.ErrNoUDP); o.NoUDP {
		errs[3] = nil
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, nil, err
	}
	if tables, _ := os.ReadFile("/proc/net/ip_tables_names"); len(tables) > 0 {
		o.Unread = "iptables-legacy contains rules, which wslmirror does not read: " + strings.Join(strings.Fields(string(tables)), ", ")
	}
	answer := func() {
		traces = nil
		for _, q := range questions {
			traces = append(traces, o.Ask(q))
		}
		tally = trace.NewTally(o, questions, traces)
	}
	reader, err := ruleset.OpenReader(nft.TableName)
	if err != nil {
		return nil, nil, err
	}
	defer reader.Close()
	_, o.Served, err = reader.Owner(nft.TableName)
	if errors.Is(err, unix.EPERM) {
		answer()
		return traces, tally, nil
	}
	if err != nil {
		return nil, nil, err
	}
	_, err = reader.Read(func(rs *ruleset.Ruleset) error {
		o.See(rs)
		answer()
		return nil
	})
	return traces, tally, err
}

// insides finds the listeners in the container with an address: in the network namespace
// of a process there. It remembers the answers.
func insides() func(netip.Addr) ([]ports.Listener, error) {
	type answer struct {
		list []ports.Listener
		err  error
	}
	known := map[netip.Addr]answer{}
	return func(addr netip.Addr) ([]ports.Listener, error) {
		a, ok := known[addr]
		if !ok {
			a.list, a.err = inside(addr)
			known[addr] = a
		}
		return a.list, a.err
	}
}

func inside(addr netip.Addr) (list []ports.Listener, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("run with sudo")
	}
	here, _ := os.Readlink("/proc/self/ns/net")
	seen := map[string]bool{here: true}
	c, err := nlconn.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		path := "/proc/" + d.Name() + "/ns/net"
		ns, err := os.Readlink(path)
		if _, no := strconv.Atoi(d.Name()); no != nil || err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		if !joined(c, path) {
			continue
		}
		has := false
		err = inNamespace(path, func() error {
			c, err := netwatch.Open()
			if err != nil {
				return err
			}
			defer c.Close()
			prefixes, err := c.Prefixes()
			for _, of := range prefixes {
				for _, p := range of {
					has = has || p.Addr() == addr
				}
			}
			if err == nil && has {
				list, err = ports.Listeners()
			}
			return err
		})
		if has {
			return list, err
		}
	}
	return nil, errors.New("no visible process has this address")
}

// joined reports whether a link leads from here to a network namespace. Others may have
// the same addresses. If there is a link, the kernel has assigned the namespace a number.
func joined(c *nlconn.Conn, path string) (is bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	const header = 4 // struct rtgenmsg, with padding
	answer, err := c.Ask(unix.RTM_GETNSID, nlconn.AppendUint32(make([]byte, header), unix.NETNSA_FD, uint32(fd)))
	if err != nil || len(answer) < header {
		return false
	}
	err = nlconn.Attrs(answer[header:], func(a *nlconn.Attr) { is = is || a.Kind == unix.NETNSA_NSID && int32(a.Uint32()) >= 0 })
	return is && err == nil
}

// inNamespace runs fn in the network namespace of a file, on a thread that then ends.
func inNamespace(path string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, because the thread changes its namespace
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}
