package field

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/windows"
)

// A Speed is how fast a path is, roughly: it is measured for a moment, while whatever else
// runs on the machine goes on.
type Speed struct {
	Path string `json:"path"`
	// Without and With are nil where nobody answered.
	Without *Figure `json:"without"`
	With    *Figure `json:"with"`
}

// A Figure is of requests on one connection, one after the other.
type Figure struct {
	MedianMS  float64 `json:"median_ms"`
	PerSecond float64 `json:"per_second"`
	Requests  int     `json:"requests"`
}

const (
	mostRequests  = 200
	measureFor    = 300 * time.Millisecond
	curlRequests  = 100
	curlSpeedTime = 20 * time.Second
)

// figure is nil of nothing.
func figure(took []time.Duration) *Figure {
	if len(took) == 0 {
		return nil
	}
	var all time.Duration
	for _, t := range took {
		all += t
	}
	slices.Sort(took)
	return &Figure{milliseconds(took[len(took)/2]), float64(len(took)) / max(all, time.Microsecond).Seconds(), len(took)}
}

// measure is for a client in a host.
func measure(host *lab.Host, proto string, to netip.AddrPort) *Figure {
	c, err := host.Dial(goName(proto), "", to.String(), patience)
	if err != nil {
		return nil
	}
	defer c.Close()
	var took []time.Duration
	for began := time.Now(); len(took) < mostRequests && time.Since(began) < measureFor; {
		t := time.Now()
		if _, err := c.Ask(patience); err != nil {
			break
		}
		took = append(took, time.Since(t))
	}
	return figure(took)
}

// measureByCurl is for a client in Windows: curl.exe repeats a request on one connection
// where its URL has a range.
func measureByCurl(ctx context.Context, to netip.AddrPort) *Figure {
	out, _, err := windows.Run(ctx, curlSpeedTime, curl, "--silent", "--noproxy", "*",
		"--max-time", "2", "--write-out", `\n#%{http_code} %{time_total}\n`, fmt.Sprintf("http://%s/?[1-%d]", to, curlRequests))
	if err != nil {
		return nil
	}
	var took []time.Duration
	for line := range strings.Lines(string(out)) {
		// The server's name is on the lines between.
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "#200 "); ok {
			if s, err := strconv.ParseFloat(s, 64); err == nil {
				took = append(took, time.Duration(s*float64(time.Second)))
			}
		}
	}
	return figure(took)
}

// measureAll measures the paths of questions that were answered: to servers of Linux, and to
// what is published everywhere.
func measureAll(ctx context.Context, list []Question, got []Answer, hosts map[Client]*lab.Host) map[string]*Figure {
	out := map[string]*Figure{}
	for i, q := range list {
		if ctx.Err() != nil || got[i].Outcome != Answers || !isMeasured(q) {
			continue
		}
		switch {
		case q.From != Windows:
			out[q.String()] = measure(hosts[q.From], q.Proto, q.At)
		case q.Proto == "TCP":
			out[q.String()] = measureByCurl(ctx, q.At)
		default: // which PowerShell measured when it asked
			out[q.String()] = &Figure{got[i].Milliseconds, 1000 / max(got[i].Milliseconds, 0.001), datagrams}
		}
	}
	return out
}

func isMeasured(q Question) bool {
	return (q.From == Linux || q.From == Windows) && q.At.Addr().IsLoopback() &&
		q.Want != "" && q.Want != string(Windows) && !strings.Contains(q.To, "127.0.0.1")
}
