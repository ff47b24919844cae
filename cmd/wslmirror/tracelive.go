package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// A liveFlag is --live, with an optional number of seconds. 0 means that it is not given.
type liveFlag uint

// The seconds of --live.
const (
	usualLive = 10
	mostLive  = 24 * 60 * 60
)

func (l *liveFlag) String() string   { return fmt.Sprint(*l) }
func (l *liveFlag) IsBoolFlag() bool { return true }

func (l *liveFlag) Set(s string) error {
	switch s {
	case "true":
		*l = usualLive
		return nil
	case "false":
		*l = 0
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n > mostLive {
		return fmt.Errorf("%q is not a number of seconds from 1 to %d", s, mostLive)
	}
	*l = liveFlag(n)
	return nil
}

// seconds takes the seconds out of the words: package flag leaves them there.
func (l *liveFlag) seconds(args, words []string) ([]string, error) {
	at := slices.IndexFunc(args, func(a string) bool { return a == "--live" || a == "-live" })
	if at < 0 || at+1 == len(args) || len(words) < 2 {
		return words, nil
	}
	i := slices.Index(words, args[at+1])
	if i < 0 {
		return words, nil
	}
	if err := l.Set(words[i]); err != nil {
		return nil, usageError("--live: %v", err)
	}
	return slices.Delete(words, i, i+1), nil
}

// A liveReport is what --live adds to the document.
type liveReport struct {
	Seconds float64 `json:"seconds"`
	// Missed are packets that were not inspected, because there were too many.
	Missed  uint64       `json:"missed"`
	Clients []trace.Live `json:"clients"`
}

// watchPackets counts packets until the seconds are over, or ^C. It writes to say
// that it is waiting.
func watchPackets(port ruleset.Port, tally *trace.Tally, seconds liveFlag, say io.Writer) (r liveReport, err error) {
	tracer, err := nft.OpenTracer(tally.Traced())
	if errors.Is(err, unix.EPERM) {
		return r, hinted{errors.New("only root can trace packets"), "run with sudo"}
	}
	if nft.IsLacking(err) {
		return r, hinted{errors.New("this kernel cannot trace packets"), "load what it lacks: sudo modprobe -a nft_ct nft_limit"}
	}
	if err != nil {
		return r, err
	}
	defer tracer.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	fmt.Fprintf(say, "Waiting for packets to %s, for %d s or until ^C\n", port, seconds)
	began := time.Now()
	r.Missed, err = tracer.Follow(ctx, func(e nft.TraceEvent) { tally.Add(e, tracer.Owns(e)) })
	if err != nil {
		return r, err
	}
	r.Seconds = min(time.Since(began).Round(100*time.Millisecond).Seconds(), float64(seconds))
	r.Clients = tally.Result()
	return r, addComments(r.Clients)
}

// addComments adds the comments of rules that no forecast contains.
func addComments(clients []trace.Live) error {
	reader, err := ruleset.OpenReader(nft.TableName)
	if err != nil {
		return err
	}
	defer reader.Close()
	_, err = reader.Read(func(rs *ruleset.Ruleset) error {
		for _, c := range clients {
			for i, h := range c.Hops {
				if h.Handle != 0 && h.Comment == "" {
					c.Hops[i].Comment = rs.Comment(h.Table, h.Chain, h.Handle)
				}
			}
		}
		return nil
	})
	return err
}

// printLive prints the counted packets, and where they differ from the forecast.
func printLive(w io.Writer, out screen, port ruleset.Port, r liveReport) error {
	var b bytes.Buffer
	total := uint64(0)
	for _, c := range r.Clients {
		total += c.Requests + c.Answers
		if c.From == trace.Proxy && c.Requests+c.Answers == 0 {
			continue
		}
		b.WriteString("\n")
		printClient(&b, out, port, c)
	}
	if r.Missed > 0 {
		b.WriteString("\n" + out.fold(fmt.Sprintf("%s arrived too fast to be inspected, and are not counted", plural(r.Missed, "packet")), "  ", 0) + "\n")
	}
	if total == 0 {
		b.Reset()
		fmt.Fprintf(&b, "\nNo packet to %s in %s s. While trace waits, send one:\n", port, strconv.FormatFloat(r.Seconds, 'f', -1, 64))
		for _, c := range r.Clients {
			if how := howToSend(c.From, port); how != "" {
				fmt.Fprintf(&b, "  %s\n", how)
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// howToSend is a command that sends a packet.
func howToSend(from trace.Client, port ruleset.Port) string {
	in := map[trace.Client]string{
		trace.Windows: "in Windows:", trace.Linux: "in Linux:  ", trace.LAN: "from another machine:", trace.Container: "in the container:",
	}[from]
	to := map[trace.Client]string{trace.LAN: "ADDRESS-OF-WINDOWS", trace.Container: "GATEWAY-OF-THE-CONTAINER"}[from]
	if to == "" {
		to = "127.0.0.1"
	}
	switch {
	case in == "":
		return ""
	case port.Proto == unix.IPPROTO_TCP && from == trace.Windows:
		return fmt.Sprintf("%s  curl.exe http://%s:%d/", in, to, port.Number)
	case port.Proto == unix.IPPROTO_TCP:
		return fmt.Sprintf("%s  curl http://%s:%d/", in, to, port.Number)
	case from == trace.Windows:
		return fmt.Sprintf(`%s  powershell -c "(New-Object Net.Sockets.UdpClient).Send([byte[]](65), 1, '%s', %d)"`, in, to, port.Number)
	}
	return fmt.Sprintf(`%s  bash -c "echo A >/dev/udp/%s/%d"`, in, to, port.Number)
}

func printClient(b *bytes.Buffer, out screen, port ruleset.Port, c trace.Live) {
	head := fmt.Sprintf("%s to %s: %s, %s", capital(clientNames[c.From]), port, plural(c.Requests, "packet"), plural(c.Answers, "answer"))
	if c.From == trace.Proxy {
		head = fmt.Sprintf("The proxy to its container: %s, %s", plural(c.Requests, "packet"), plural(c.Answers, "answer"))
	}
	end := out.mark(markOK, "as forecast")
	differ := 0
	for _, h := range c.Hops {
		if h.Differs {
			differ++
		}
	}
	switch {
	case c.Requests+c.Answers == 0:
		end = out.mark(markUnknown, "no packets")
	case differ > 0:
		end = out.mark(markFault, plural(uint64(differ), "difference"))
	}
	out.ends(b, head, end)
	var rows [][]string
	part := false
	flush := func() {
		if part && len(rows) > 1 {
			b.WriteString("     the answers:\n")
		}
		if len(rows) > 1 {
			out.table(b, "  ", rows)
		}
		rows = [][]string{{"PACKETS", "AT", "RESULT"}}
	}
	flush()
	for _, h := range c.Hops {
		if h.Reply != part {
			flush()
			part = h.Reply
		}
		if h.Packets == 0 && !h.Differs {
			continue
		}
		subject, does := liveText(h)
		does = out.show(text.Line(does))
		switch {
		case h.Differs && h.Forecast == nil:
			does = out.mark(markFault, does+", not forecast")
		case h.Differs:
			_, forecast := hopText(*h.Forecast)
			does = out.mark(markFault, does+"; forecast: "+out.show(text.Line(forecast)))
		case h.Forecast != nil:
			does = out.mark(markOK, does)
		}
		rows = append(rows, []string{fmt.Sprintf("%7d", h.Packets), out.show(text.Line(subject)), does})
	}
	flush()
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// liveText is hopText for counted packets.
func liveText(h trace.LiveHop) (subject, says string) {
	switch {
	case h.Packets == 0:
		subject, _ = hopText(*h.Forecast)
		return subject, "no packets"
	case h.Kind == trace.Arrives:
		return h.Link, "arrives"
	case h.Kind == trace.Leaves:
		return h.Link, "leaves"
	case h.Kind == trace.AtSocket:
		return h.To, "delivered"
	}
	return chainText(h.Hop)
}

// sayTo is where the message goes that trace is waiting: not into the JSON.
func sayTo(asJSON bool, stdout io.Writer) io.Writer {
	if asJSON {
		return os.Stderr
	}
	return stdout
}

// ends writes a line with a mark at its end.
func (s screen) ends(b *bytes.Buffer, head, end string) {
	fmt.Fprintf(b, "%s%s%s\n", head, strings.Repeat(" ", max(1, s.width-columns(head)-columns(end))), end)
}
