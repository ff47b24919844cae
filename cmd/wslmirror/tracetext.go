package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// printTraces prints the paths for people: a line for each hop that decides something,
// and a mark where a packet stops.
func printTraces(w io.Writer, out screen, port ruleset.Port, traces []trace.Trace) error {
	var b bytes.Buffer
	for i, t := range traces {
		if i > 0 {
			b.WriteString("\n")
		}
		printTrace(&b, out, port, t)
	}
	_, err := w.Write(b.Bytes())
	return err
}

var clientNames = map[trace.Client]string{trace.Windows: "Windows", trace.Linux: "Linux", trace.LAN: "the LAN", trace.Container: "a container"}

func printTrace(b *bytes.Buffer, out screen, port ruleset.Port, t trace.Trace) {
	var hops bytes.Buffer
	var rows [][]string // of one part of the path
	number, stopsAt, part := 0, 0, ""
	longest := 0 // of the subjects: all parts have the same columns
	for _, h := range t.Hops {
		if subject, _ := hopText(h); worthALine(h) {
			longest = max(longest, columns(text.Line(subject)))
		}
	}
	flush := func() {
		out.table(&hops, "", rows)
		rows = nil
	}
	for _, h := range t.Hops {
		if !worthALine(h) {
			continue
		}
		if now := partOf(h); now != part {
			flush()
			part = now
			fmt.Fprintf(&hops, "     %s:\n", part)
		}
		number++
		subject, says := hopText(h)
		says = text.Line(says)
		if h.Stops {
			stopsAt = number
			says += map[bool]string{false: " ◀ here", true: " <-- here"}[out.ascii]
		}
		rows = append(rows, []string{fmt.Sprintf("%3d  %-*s", number, longest, out.show(text.Line(subject))), out.show(says)})
	}
	flush()
	head := fmt.Sprintf("From %s to port %s", clientNames[t.From], port)
	sign, end := markOK, "reaches"
	switch t.Verdict {
	case trace.Stops:
		sign, end = markFault, fmt.Sprintf("stops at %d", stopsAt)
	case trace.Unknown:
		sign, end = markUnknown, "not certain"
	}
	out.ends(b, head, out.mark(sign, end))
	b.Write(hops.Bytes())
	if t.Why != "" {
		fmt.Fprintf(b, "  Why:  %s\n", strings.TrimLeft(out.fold(out.show(text.Line(t.Why)), "        ", 0), " "))
	}
	for i, f := range t.Fix {
		// Commands are not folded: people copy them.
		fmt.Fprintf(b, "  %s%s\n", map[bool]string{true: "Fix:  ", false: "      "}[i == 0], text.Line(f))
	}
}

// worthALine reports whether a hop does more than let the packet pass.
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

// partOf names the packet that a hop belongs to, "" for that of the client.
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

// hopText is the name of a hop, and what it does.
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
		if h.Rule != "" {
			says += ", by ip rule " + h.Rule
		}
		return "table " + h.RouteTable, says
	case trace.AtWindows:
		return "Windows", map[string]string{"return": "sends it back: a socket in Linux uses the port", "take": "keeps it: no socket in Linux uses the port"}[h.Verdict]
	case trace.AtSocket, trace.InsideHost:
		says = hopWords[h.Verdict]
		if strings.Contains(says, "%s") {
			says = fmt.Sprintf(says, h.Who())
		}
		return h.To, says
	}
	return chainText(h)
}

// hopWords are the verdicts of sockets in words.
var hopWords = map[string]string{
	"listen": "%s listens", "proxy": "%s, the proxy of a container", "hold": "%s holds the port", "unknown": "the listener is not visible",
	"none": "nobody listens", "martian": "drops it: the source is its own address",
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
		return subject, "skipped: NAT is already settled"
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
