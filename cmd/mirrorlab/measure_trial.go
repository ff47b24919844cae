package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/load"
)

const (
	// connections are open at once, or datagrams on their way.
	connections = 8
	// rate is at which latency is measured, in requests a second: low enough
	// that no variant queues.
	rate = 1000
	// body is that of a long answer.
	body = 16 << 20

	// speedPorts is WSL's block of source ports since about 2.5. With fewer a
	// client that opens thousands of connections a second waits for ports
	// that its own last ones still hold, whatever the way.
	speedPorts = 4096
	// fewPorts is the block of 2023, and many connections do not fit in it.
	fewPorts = 300
	many     = 400
)

// A quantity is what is measured.
type quantity struct {
	Key   string `json:"quantity"`
	Title string `json:"-"`
	Unit  string `json:"unit"` // "" if it is a count
	// LessIsBetter, else more is.
	LessIsBetter bool `json:"less_is_better,omitempty"`
}

var (
	keepAlive  = quantity{"keepalive", "requests, connections kept", "requests/s", false}
	keepCPU    = quantity{"keepalive_cpu", "CPU for each of these", "µs", true}
	newConns   = quantity{"newconns", "requests, a connection each", "requests/s", false}
	newCPU     = quantity{"newconns_cpu", "CPU for each of these", "µs", true}
	bulk       = quantity{"bulk", "bulk", "MiB/s", false}
	cpu        = quantity{"cpu", "CPU", "s/GiB", true}
	median     = quantity{"median", fmt.Sprintf("latency at %d requests/s, median", rate), "µs", true}
	p99        = quantity{"p99", fmt.Sprintf("latency at %d requests/s, p99", rate), "µs", true}
	udp        = quantity{"udp", "UDP echoes", "echoes/s", false}
	manyRate   = quantity{"many", fmt.Sprintf("%d connections kept, %d source ports", many, fewPorts), "requests/s", false}
	manyFailed = quantity{"many_failed", "of that, failed reads and connects", "", true}
	manyPorts  = quantity{"many_ports", "of that, source ports in use", "", true}
)

// allQuantities is the order in which they are shown.
var allQuantities = []quantity{keepAlive, keepCPU, newConns, newCPU, bulk, cpu, median, p99, udp, manyRate, manyFailed, manyPorts}

// A trial is a run of a load generator.
type trial struct {
	name     string // for --trial
	what     string // for people
	ports    int    // of the bench's block
	clients  []string
	variants []variant
	yields   []quantity // in the order of what run returns
	run      func(ctx context.Context, t target) (outcome, error)
}

// An outcome is what a trial measured, and how many of its requests got no answer.
type outcome struct {
	values []float64
	failed int
}

var bothClients = []string{inWindows, inLinux}

// trials are all of them, each of so many seconds.
func trials(seconds int) []trial {
	d := time.Duration(seconds) * time.Second
	return []trial{
		{"keepalive", "requests on kept connections", speedPorts, bothClients, allVariants, []quantity{keepAlive, keepCPU},
			func(ctx context.Context, t target) (outcome, error) {
				w, cpu, err := t.costing(ctx, seconds, "", "")
				return outcome{[]float64{w.requests / w.seconds, cpu / w.requests * 1e6}, w.failed}, err
			}},
		{"newconns", "a connection for each request", speedPorts, bothClients, allVariants, []quantity{newConns, newCPU},
			func(ctx context.Context, t target) (outcome, error) {
				w, cpu, err := t.costing(ctx, seconds, "", "Connection: close")
				return outcome{[]float64{w.requests / w.seconds, cpu / w.requests * 1e6}, w.failed}, err
			}},
		{"bulk", "bulk", speedPorts, bothClients, allVariants, []quantity{bulk, cpu},
			func(ctx context.Context, t target) (outcome, error) {
				w, cpu, err := t.costing(ctx, seconds, strconv.Itoa(body), "")
				return outcome{[]float64{w.bytes / w.seconds / (1 << 20), cpu / w.bytes * (1 << 30)}, w.failed}, err
			}},
		{"latency", "requests at a fixed rate", speedPorts, bothClients, allVariants, []quantity{median, p99},
			func(ctx context.Context, t target) (outcome, error) {
				l, err := load.FixedRate(ctx, t.dial("tcp4"), connections, rate, d)
				return outcome{values: []float64{l.Median.Seconds() * 1e6, l.P99.Seconds() * 1e6}}, err
			}},
		{"udp", "UDP", speedPorts, bothClients, allVariants, []quantity{udp},
			func(ctx context.Context, t target) (outcome, error) {
				e, err := load.Echo(ctx, t.dial("udp4"), connections, d)
				return outcome{[]float64{float64(e.Answered) / d.Seconds()}, e.Lost}, err
			}},
		// Linux itself has not as many ports.
		{"many", fmt.Sprintf("%d connections with %d source ports", many, fewPorts), fewPorts, []string{inWindows}, []variant{byProxy, byDirect},
			[]quantity{manyRate, manyFailed, manyPorts},
			func(ctx context.Context, t target) (outcome, error) {
				return t.manyConnections(ctx, seconds)
			}},
	}
}

// costing is wrk, and the CPU time that the bench has used for it, in seconds. A
// machine that is shared takes time away from both, but little of that counts as
// ours: so the CPU of each request differs less from round to round than how many
// there are.
func (t target) costing(ctx context.Context, seconds int, path, header string) (w wrkCounts, cpu float64, err error) {
	before, err := cpuSeconds()
	if err != nil {
		return w, 0, err
	}
	if w, err = t.wrk(ctx, connections, seconds, path, header); err != nil {
		return w, 0, err
	}
	after, err := cpuSeconds()
	return w, after - before, err
}

// manyConnections keeps more connections open than there are source ports, and
// counts those ports meanwhile.
func (t target) manyConnections(ctx context.Context, seconds int) (outcome, error) {
	var (
		inUse    int
		countErr error
		counted  = make(chan struct{})
	)
	go func() {
		defer close(counted)
		select {
		case <-time.After(time.Duration(seconds) * time.Second / 2):
			inUse, countErr = t.scene.sourcePorts()
		case <-ctx.Done():
		}
	}()
	w, err := t.wrk(ctx, many, seconds, "", "")
	<-counted
	return outcome{values: []float64{w.requests / w.seconds, float64(w.failed), float64(inUse)}}, errors.Join(err, countErr)
}

// dial opens the client's connections from where it is.
func (t target) dial(network string) load.Dial {
	return func() (c net.Conn, err error) {
		err = t.from.Do(func() error {
			c, err = net.DialTimeout(network, t.addr, time.Second)
			return err
		})
		return c, err
	}
}

// wrkScript has wrk print its counts for a program to read.
const wrkScript = `done = function(s)
	local e = s.errors
	print("counts", s.requests, s.bytes, s.duration, e.connect + e.read + e.write + e.timeout, e.status)
end
`

// wrkCounts is what wrk has counted.
type wrkCounts struct {
	requests, bytes, seconds float64
	failed                   int
}

// wrk runs wrk with one thread at http://ADDR/PATH. It never opens again what once
// did not open, so if some failed the rate is that of the connections that were left.
func (t target) wrk(ctx context.Context, conns, seconds int, path, header string) (wrkCounts, error) {
	script := filepath.Join(t.scene.dir, "counts.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o644); err != nil {
		return wrkCounts{}, err
	}
	args := []string{"--threads", "1", "--connections", strconv.Itoa(conns), "--duration", strconv.Itoa(seconds), "--script", script}
	if header != "" {
		args = append(args, "--header", header)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+20*time.Second)
	defer cancel()
	var out strings.Builder
	cmd := exec.CommandContext(ctx, "wrk", append(args, "http://"+t.addr+"/"+path)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := t.from.Start(cmd)
	if err == nil {
		err = p.Wait()
	}
	if err != nil {
		return wrkCounts{}, fmt.Errorf("wrk: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return parseWrk(out.String())
}

// parseWrk reads the line that wrkScript prints.
func parseWrk(out string) (w wrkCounts, err error) {
	_, line, ok := strings.Cut(out, "counts\t")
	var status int
	if ok {
		_, err = fmt.Sscan(line, &w.requests, &w.bytes, &w.seconds, &w.failed, &status)
		w.seconds /= 1e6
	}
	switch {
	case !ok || err != nil || w.seconds <= 0:
		return w, fmt.Errorf("wrk does not say what it counted: %q", out)
	case status > 0:
		return w, fmt.Errorf("%d answers are no success", status)
	case w.requests == 0:
		return w, fmt.Errorf("wrk got no answer: %q", out)
	}
	return w, nil
}
