package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// widthOf is how many columns w has.
func widthOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col >= 50 {
			return int(size.Col)
		}
	}
	return 80
}

// printTraces prints the ways for people: a line for each hop that decides something,
// and the mark where one ends.
func printTraces(w io.Writer, port ruleset.Port, traces []trace.Trace, colour bool) error {
	var b bytes.Buffer
	width := widthOf(w)
	for i, t := range traces {
		if i > 0 {
			b.WriteString("\n")
		}
		printTrace(&b, port, t, width, colour)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func printTrace(b *bytes.Buffer, port ruleset.Port, t trace.Trace, width int, colour bool) {
	var hops bytes.Buffer
	number, stopsAt, part := 0, 0, ""
	column := 0 // that of what a hop says
	for _, h := range t.Hops {
		if subject, _ := hopText(h); worthALine(h) {
			column = max(column, 6+utf8.RuneCountInString(subject))
		}
	}
	column = min(column, width*2/5)
	for _, h := range t.Hops {
		if !worthALine(h) {
			continue
		}
		if now := partOf(h); now != part {
			part = now
			fmt.Fprintf(&hops, "     %s:\n", part)
		}
		number++
		subject, says := hopText(h)
		if h.Stops {
			stopsAt = number
			says += " ◀ here"
		}
		subject = fmt.Sprintf("%3d  %-*s ", number, column-6, text.Line(subject))
		fmt.Fprintf(&hops, "%s\n", foldTo(width, subject, text.Line(says), column))
	}
	names := map[trace.Client]string{trace.Windows: "Windows", trace.Linux: "Linux", trace.LAN: "the LAN", trace.Container: "a container"}
	head := fmt.Sprintf("From %s to port %s", names[t.From], port)
	look, end := looks[doctor.OK], "reaches"
	switch t.Verdict {
	case trace.Stops:
		look, end = looks[doctor.Fault], fmt.Sprintf("stops at %d", stopsAt)
	case trace.Unknown:
		look, end = looks[doctor.Unknown], "not certain"
	}
	fmt.Fprintf(b, "%s%s%s %s\n%s", head, strings.Repeat(" ", max(1, width-len(head)-len(end)-2)), look.print(colour), end, hops.Bytes())
	if t.Why != "" {
		fmt.Fprintf(b, "%s\n", foldTo(width, "  Why:  ", text.Line(t.Why), 8))
	}
	for i, f := range t.Fix {
		// Commands are not folded: they are there to be copied.
		fmt.Fprintf(b, "  %s%s\n", map[bool]string{true: "Fix:  ", false: "      "}[i == 0], text.Line(f))
	}
}

// worthALine reports whether a hop says more than that the packet passes.
func worthALine(h trace.Hop) bool {
	switch {
	case h.Stops || !h.Sure:
		return true
	case h.Kind == trace.InChain:
		return h.Verdict != string(ruleset.Passes) && (h.Verdict != string(ruleset.Skipped) || partOf(h) == "")
	case h.Kind == trace.Leaves:
		return false // the route says so
	}
	return true
}

// partOf names the packet of which a hop is, "" for that of the client.
func partOf(h trace.Hop) string {
	switch {
	case h.Proxied && h.Reply:
		return "the answer to the proxy"
	case h.Proxied:
		return "the proxy's own connection"
	case h.Reply:
		return "the answer"
	}
	return ""
}

// hopText is what a hop is, and what it does.
func hopText(h trace.Hop) (subject, says string) {
	switch h.Kind {
	case trace.Arrives:
		return h.Link, fmt.Sprintf("%s → %s", h.From, h.To)
	case trace.Leaves:
		return h.Link, fmt.Sprintf("leaves, %s → %s", h.From, h.To)
	case trace.Routed:
		says = map[string]string{"local": "for this machine", "unreachable": "no route"}[h.Verdict]
		if says == "" {
			says = "to " + h.Link
		}
		if h.Comment != "" {
			says += ", by ip rule " + h.Comment
		}
		return "table " + h.Table, says
	case trace.AtWindows:
		return "Windows", map[string]string{"return": "sends it back: Linux has the port", "take": "keeps it: nobody in Linux has the port"}[h.Verdict]
	case trace.AtSocket, trace.InsideHost:
		says = hopWords[h.Verdict]
		if strings.Contains(says, "%s") {
			says = fmt.Sprintf(says, h.Comment)
		}
		return h.To, says
	}
	return chainText(h)
}

// hopWords are what sockets do.
var hopWords = map[string]string{
	"listen": "%s listens", "proxy": "%s, the proxy of a container", "hold": "%s holds the port", "unknown": "who listens is not seen",
	"none": "nobody listens", "martian": "takes it for one of its own, and drops it",
}

// chainText is hopText for a chain.
func chainText(h trace.Hop) (subject, says string) {
	by := "policy"
	switch {
	case h.Comment != "":
		by = fmt.Sprintf("%q", h.Comment)
	case h.Handle != 0:
		by = fmt.Sprintf("rule %d", h.Handle)
	}
	subject = h.Table + " " + h.Chain
	switch ruleset.Does(h.Verdict) {
	case ruleset.Skipped:
		return subject, "skipped: its NAT is settled"
	case ruleset.Translates, ruleset.Redirects, ruleset.Masquerades:
		says = fmt.Sprintf("%s to %s, by %s", h.Verdict, h.To, by)
	default:
		says = fmt.Sprintf("%s by %s", h.Verdict, by)
	}
	if !h.Sure {
		says = "may " + says
	}
	return subject, says
}

// foldTo breaks a text into lines of at most width columns. The first begins with
// beginning, the others with spaces.
func foldTo(width int, beginning, words string, indent int) string {
	line, out := beginning, ""
	for i, word := range strings.Fields(words) {
		switch n := utf8.RuneCountInString(line) + utf8.RuneCountInString(word); {
		case i == 0:
			line += word
		case n+1 > width:
			out, line = out+line+"\n", strings.Repeat(" ", indent)+word
		default:
			line += " " + word
		}
	}
	return out + line
}
