package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/netwatch"
)

// A section is a part of a bundle.
type section struct{ name, text string }

// wslVersion is the section whose numbers look like an address and are none.
const wslVersion = "wslinfo --version"

// gather collects the other sections of a bug report, until ctx is done. It runs
// programs, each of which may be missing, fail or hang.
func gather(ctx context.Context, dir string) []section {
	own := func(verb func([]string, io.Writer) (int, error), args ...string) func() string {
		return func() string {
			var out bytes.Buffer
			if _, err := verb(args, &out); err != nil {
				fmt.Fprintln(&out, err)
			}
			return out.String()
		}
	}
	program := func(args ...string) func() string {
		return func() string { return runProgram(ctx, args...) }
	}
	parts := []struct {
		name string
		text func() string
	}{
		{"wslmirror status --json", own(showStatus, "--json", "--runtime-dir", dir)},
		{"wslmirror ports", own(showPorts, "--runtime-dir", dir)},
		{"/etc/os-release", program("cat", "/etc/os-release")},
		{wslVersion, program("wslinfo", "--version")},
		{"nft --version", program("nft", "--version")},
		{"iptables --version", program("iptables", "--version")},
		{"docker --version", program("docker", "--version")},
		{"podman --version", program("podman", "--version")},
		{"nft list ruleset", program("nft", "list", "ruleset")},
		{"systemctl status wslmirror", program("systemctl", "status", "--no-pager", "--lines=0", "wslmirror")},
		{"journalctl -u wslmirror", program("journalctl", "--unit=wslmirror", "--no-pager", "--no-hostname", "--output=short-iso", "--lines=200")},
	}
	sections := make([]section, len(parts))
	var all sync.WaitGroup
	for i, p := range parts {
		all.Go(func() {
			text := make(chan string, 1)
			go func() { text <- p.text() }()
			select {
			case t := <-text:
				sections[i] = section{p.name, t}
			case <-ctx.Done():
				sections[i] = section{p.name, "(no answer in time)"}
			}
		})
	}
	all.Wait()
	return sections
}

// mostText is how much of a program's output a bundle contains, in bytes.
const mostText = 1 << 20

// runProgram is the output of a program, with the error if there is one.
func runProgram(ctx context.Context, args ...string) string {
	if _, err := exec.LookPath(args[0]); err != nil {
		return fmt.Sprintf("(%s is not installed)", args[0])
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 100 * time.Millisecond
	out, err := cmd.CombinedOutput()
	text := string(out[:min(len(out), mostText)])
	if len(out) > mostText {
		text += "\n(shortened)"
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		text += "\n(no answer in time)"
	case errors.As(err, &exit):
		text += fmt.Sprintf("\n(exit status %d)", exit.ExitCode())
	case err != nil:
		text += fmt.Sprintf("\n(%v)", err)
	}
	return text
}

// describe is the observed network, for a bug report.
func describe(o *doctor.Observation) string {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	title := func(name string, err error) bool {
		fmt.Fprintf(t, "%s\n", name)
		if err != nil {
			fmt.Fprintf(t, "  (%v)\n", err)
		}
		return err == nil
	}
	fmt.Fprintf(t, "kernel %s\n", o.Guest.Release)
	if n := o.Net.Value; title("links, addresses, ip rules, routes, neighbours", o.Net.Err) {
		for _, l := range n.Links {
			up := "down"
			if l.Up {
				up = "up"
			}
			c := o.Sysctls.Value[l.Name]
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%v\trp_filter %d\taccept_local %d\troute_localnet %d\n",
				l.Index, l.Name, l.Kind, up, n.Prefixes[l.Index], c.RPFilter, c.AcceptLocal, c.RouteLocalnet)
		}
		if c, ok := o.Sysctls.Value["all"]; ok {
			fmt.Fprintf(t, "  \tall\t\t\t\trp_filter %d\taccept_local %d\troute_localnet %d\n", c.RPFilter, c.AcceptLocal, c.RouteLocalnet)
		}
		for _, r := range n.Rules {
			fmt.Fprintf(t, "  %s\n", r)
		}
		for _, r := range n.Routes {
			via := ""
			if r.Via.IsValid() {
				via = " via " + r.Via.String()
			}
			fmt.Fprintf(t, "  table %s\t%s%s\t%s\ttype %d\n", netwatch.TableName(r.Table), r.To, via, n.LinkName(r.Link), r.Type)
		}
		for _, p := range n.Paths {
			fmt.Fprintf(t, "  %s\tproto %d\ttable %s\ttype %d\t%s\n", p.What, p.Query.Proto, netwatch.TableName(p.Is.Table), p.Is.Type, n.LinkName(p.Is.Oif))
		}
		for _, e := range n.Neighbours {
			fmt.Fprintf(t, "  %s\t%s\tstate %#x\n", e.Addr, n.LinkName(e.Link), e.State)
		}
	}
	if title("processes", o.Programs.Err) {
		for _, p := range o.Programs.Value {
			fmt.Fprintf(t, "  %d\t%s\n", p.PID, strings.Join(p.Shown(), " "))
		}
	}
	t.Flush()
	return b.String()
}

// unforged indents lines that look like the title of another section:
// other people choose the names and arguments in a section.
func unforged(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "====") {
			lines[i] = " " + l
		}
	}
	return strings.Join(lines, "\n")
}
