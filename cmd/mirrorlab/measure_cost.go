package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// cpuSeconds is the CPU time that the bench has used so far: this process with
// all that descend from it (wrk, dockerd, docker-proxy, the server, wslmirror),
// and the kernel's threads for packets that no process takes on. Other programs
// of the machine are not in it. Softirqs that interrupt a process are charged
// to that, which on the bench is one of ours nearly always, unless the kernel
// was built with CONFIG_IRQ_TIME_ACCOUNTING: then they are in nobody's time,
// and the numbers say too little, for all variants.
func cpuSeconds() (float64, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	processes := map[int]processStat{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if p, err := parseStat(string(b)); err == nil {
			processes[p.pid] = p
		}
	}
	self := os.Getpid()
	var ticks int64
	for _, p := range processes {
		ours := strings.HasPrefix(p.name, "ksoftirqd/")
		// Up to this process or to the top. The numbers of parents are of one
		// moment each, so a circle is possible in theory.
		for q, steps := p, 0; !ours && q.pid != 0 && steps < 100; q, steps = processes[q.parent], steps+1 {
			ours = q.pid == self
		}
		if ours {
			ticks += p.ticks
		}
	}
	return float64(ticks) / ticksPerSecond, nil
}

// machineSeconds is the CPU time that the whole machine has used so far, with
// what its hypervisor gave to others (proc_stat(5)).
func machineSeconds() (float64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseMachine(string(b))
}

func parseMachine(text string) (float64, error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks int64
	for i, s := range f[1:9] { // user, nice, system, idle, iowait, irq, softirq, steal
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		if i != 3 && i != 4 {
			ticks += n
		}
	}
	return float64(ticks) / ticksPerSecond, nil
}

// A disturbance is how much of the machine others took while fn ran, between 0
// and 1.
func disturbance(fn func() error) (float64, error) {
	read := func() (others float64, err error) {
		machine, err := machineSeconds()
		if err != nil {
			return 0, err
		}
		ours, err := cpuSeconds()
		return machine - ours, err
	}
	begin := time.Now()
	before, err := read()
	if err == nil {
		err = fn()
	}
	if err != nil {
		return 0, err
	}
	after, err := read()
	return max(0, after-before) / time.Since(begin).Seconds() / float64(runtime.NumCPU()), err
}

// processStat is a part of /proc/PID/stat.
type processStat struct {
	pid, parent int
	name        string
	ticks       int64 // of it and of its children that have ended
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)).
func parseStat(text string) (p processStat, err error) {
	// The name is whatever the process likes.
	begin, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if begin < 0 || end < begin {
		return p, fmt.Errorf("no name in %q", text)
	}
	p.name = text[begin+1 : end]
	if p.pid, err = strconv.Atoi(strings.TrimSpace(text[:begin])); err != nil {
		return p, err
	}
	f := strings.Fields(text[end+1:]) // from the third field on
	if len(f) < 15 {
		return p, fmt.Errorf("%q is short", text)
	}
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return p, err
	}
	for _, s := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return p, err
		}
		p.ticks += n
	}
	return p, nil
}

// sourcePorts counts the ports of WSL's block that connections use now.
func (s *scene) sourcePorts() (n int, err error) {
	err = s.bench.WSL.Do(func() error {
		f, err := os.Open("/proc/thread-self/net/tcp")
		if err != nil {
			return err
		}
		defer f.Close()
		ports := map[uint64]bool{}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// sl, local address:port, remote, state, ...
			fields := strings.Fields(lines.Text())
			if len(fields) < 4 || fields[3] != "01" { // TCP_ESTABLISHED
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err == nil && port >= uint64(s.bench.FirstPort) && port <= uint64(s.bench.LastPort) {
				ports[port] = true
			}
		}
		n = len(ports)
		return lines.Err()
	})
	return n, err
}

// A machine is on what was measured.
type machine struct {
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	Kernel    string `json:"kernel"`
	Docker    string `json:"docker"`
	Wrk       string `json:"wrk"`
	Wslmirror string `json:"wslmirror"`
	Date      string `json:"date"`
}

// String is the machine in a line.
func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, Linux %s, Docker %s, wrk %s, wslmirror %s, %s",
		m.CPU, m.Cores, m.Kernel, m.Docker, m.Wrk, m.Wslmirror, m.Date)
}

// describe describes this machine.
func describe(ctx context.Context, s *scene) (m machine, err error) {
	m = machine{CPU: "unknown CPU", Cores: runtime.NumCPU(), Wrk: "unknown", Date: time.Now().UTC().Format(time.DateOnly)}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil { // arm64 has no such line
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			m.CPU = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // the rest is of who built it
	// It ends with an error, but not without saying it: "wrk debian/4.1.0-3 [epoll] ..."
	out, _ := exec.CommandContext(ctx, "wrk", "--version").CombinedOutput()
	if f := strings.Fields(string(out)); len(f) > 1 {
		m.Wrk = strings.TrimPrefix(f[1], "debian/")
	}
	if m.Docker, err = s.version(); err != nil {
		return m, err
	}
	m.Docker = strings.TrimSpace(m.Docker)
	out, err = exec.CommandContext(ctx, s.program.Path, "version").Output()
	if err != nil {
		return m, fmt.Errorf("ask wslmirror for its version: %w", err)
	}
	m.Wslmirror = strings.TrimPrefix(strings.TrimSpace(string(out)), "wslmirror ")
	return m, nil
}
