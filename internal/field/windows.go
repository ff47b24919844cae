package field

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed" // for the scripts
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf16"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/windows"
)

// curl.exe asks by TCP, and PowerShell by UDP. Both are in every Windows that has WSL.
const (
	curl       = "curl.exe"
	powershell = "powershell.exe"
)

// How long Windows' clients wait, and how long their programs may take: PowerShell may
// take seconds to start.
var (
	windowsPatience   = lab.Scaled(4 * time.Second)
	datagramPatience  = lab.Scaled(1500 * time.Millisecond)
	curlTimeout       = windowsPatience + lab.Scaled(6*time.Second)
	powershellTimeout = lab.Scaled(20 * time.Second)
)

// datagrams is how many are sent to a server of UDP that answers.
const datagrams = 20

//go:embed agent.ps1
var agentScript string

//go:embed listener.ps1
var listenerScript string

// encoded is a script as -EncodedCommand takes it.
func encoded(script string) []string {
	var b []byte
	for _, u := range utf16.Encode([]rune(script)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return []string{"-NoLogo", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text", "-EncodedCommand", base64.StdEncoding.EncodeToString(b)}
}

// An interop is Windows as a client. Each field says why that program cannot be run, ""
// if it can: what hangs once is not run again.
type interop struct{ curl, powershell string }

// ask asks as programs in Windows.
func (w interop) ask(ctx context.Context, list []Question, column int) []Answer {
	out := make([]Answer, len(list))
	var tasks []task
	var ofTasks []int
	var asking sync.WaitGroup
	atOnce := make(chan struct{}, 4) // programs of Windows
	for i, q := range list {
		if q.Proto == "UDP" {
			tasks, ofTasks = append(tasks, task{"udp", q.At, datagrams}), append(ofTasks, i)
			continue
		}
		asking.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			for range tries {
				out[i] = w.byCurl(ctx, q)
				if !slices.Contains(q.Bench[column], Answers) || out[i].Outcome == Answers || out[i].Outcome == NotChecked {
					break
				}
			}
		})
	}
	asking.Go(func() {
		for j, a := range w.byPowerShell(ctx, tasks) {
			i := ofTasks[j]
			if out[i] = a; a.Outcome == Answers && a.Detail != list[i].Want {
				out[i].Outcome = ByAnother
			} else if a.Outcome == Answers {
				out[i].Detail = ""
			}
		}
	})
	asking.Wait()
	return out
}

// byCurl asks by HTTP, and wants the server's name.
func (w interop) byCurl(ctx context.Context, q Question) Answer {
	if w.curl != "" {
		return Answer{Outcome: NotChecked, Detail: w.curl}
	}
	began := time.Now()
	out, code, err := windows.Run(ctx, curlTimeout, curl, "--silent", "--noproxy", "*",
		"--max-time", fmt.Sprintf("%.1f", windowsPatience.Seconds()), "--write-out", `\n%{time_total}\n`, "http://"+q.At.String()+"/")
	if err != nil {
		return Answer{Outcome: NotChecked, Detail: err.Error()}
	}
	took := time.Since(began)
	body, seconds := lastLine(string(out))
	if s, err := strconv.ParseFloat(seconds, 64); err == nil {
		took = time.Duration(s * float64(time.Second))
	}
	a := Answer{Milliseconds: milliseconds(took)}
	// The exit statuses of curl(1).
	switch code {
	case 0:
		if a.Outcome = Answers; body != q.Want {
			a.Outcome, a.Detail = ByAnother, body
		}
	case 7:
		a.Outcome = refusal(took)
	case 28:
		a.Outcome = NoAnswer
	case 52:
		a.Outcome = Closed
	case 55, 56:
		a.Outcome = Reset
	default:
		a.Outcome, a.Detail = Failed, fmt.Sprintf("curl.exe: exit status %d", code)
	}
	return a
}

// lastLine cuts the last line off, as words.
func lastLine(out string) (before, last string) {
	out = strings.TrimSpace(strings.ReplaceAll(out, "\r", ""))
	if i := strings.LastIndexByte(out, '\n'); i >= 0 {
		return strings.TrimSpace(out[:i]), out[i+1:]
	}
	return "", out
}

// A task is one of agent.ps1.
type task struct {
	kind  string // "udp", "bind-tcp" or "bind-udp"
	at    netip.AddrPort
	count int
}

// byPowerShell has one PowerShell do all tasks, one after the other. The detail of what
// answers is who it was.
func (w interop) byPowerShell(ctx context.Context, tasks []task) []Answer {
	out := make([]Answer, len(tasks))
	for i := range out {
		out[i] = Answer{Outcome: NotChecked, Detail: cmp.Or(w.powershell, "PowerShell said nothing of it")}
	}
	if len(tasks) == 0 || w.powershell != "" {
		return out
	}
	var lines []string
	for i, t := range tasks {
		lines = append(lines, fmt.Sprintf("'%d %s %s %d %d %d'", i, t.kind, t.at.Addr(), t.at.Port(), datagramPatience.Milliseconds(), t.count))
	}
	script := "$tasks = @(" + strings.Join(lines, ", ") + ")\n" + agentScript
	timeout := powershellTimeout + time.Duration(len(tasks))*datagramPatience
	printed, _, err := windows.Run(ctx, timeout, powershell, encoded(script)...)
	for i := range out {
		if err != nil {
			out[i].Detail = err.Error()
		}
	}
	// It prints errors in a format of its own between these lines.
	for line := range strings.Lines(string(printed)) {
		f := strings.Fields(line)
		if len(f) != 4 {
			continue
		}
		id, err := strconv.Atoi(f[0])
		us, err2 := strconv.ParseInt(f[3], 10, 64)
		if err != nil || err2 != nil || id < 0 || id >= len(out) {
			continue
		}
		took := time.Duration(us) * time.Microsecond
		outcome, detail := windowsOutcome(f[1], f[2], took)
		out[id] = Answer{Outcome: outcome, Milliseconds: milliseconds(took), Detail: detail}
	}
	return out
}

// windowsOutcome is what a line of agent.ps1 means. Its errors are names of .NET's
// enumeration SocketError.
func windowsOutcome(outcome, detail string, took time.Duration) (Outcome, string) {
	switch {
	case outcome == "answers":
		return Answers, detail
	case outcome == "bound":
		return Bound, ""
	case outcome != "error":
		return Failed, "PowerShell: " + detail
	}
	switch detail {
	case "TimedOut", "HostUnreachable", "NetworkUnreachable":
		return NoAnswer, ""
	case "ConnectionRefused", "ConnectionReset": // of a datagram: port unreachable
		return refusal(took), ""
	case "AddressAlreadyInUse", "AccessDenied":
		return InUse, detail
	}
	return Failed, "PowerShell: " + detail
}

// A windowsServer is a PowerShell that runs listener.ps1.
type windowsServer struct {
	cmd           *exec.Cmd
	pid           int // in Windows
	named, hidden windowsPorts
	done          chan struct{}
}

// serve starts servers on Windows' 127.0.0.1. They end by themselves after some
// time, whatever becomes of this process.
func (w interop) serve(ctx context.Context, seconds int) (*windowsServer, error) {
	if w.powershell != "" {
		return nil, errors.New(w.powershell)
	}
	script := fmt.Sprintf("$seconds = %d\n", seconds) + listenerScript
	cmd, err := windows.Command(ctx, powershell, encoded(script)...)
	if err != nil {
		return nil, err
	}
	// ^C is for this process, which then ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", powershell, err)
	}
	s := &windowsServer{cmd: cmd, done: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		defer close(s.done)
		r := bufio.NewReader(io.LimitReader(stdout, 1<<20))
		ready <- s.readPorts(r)
		io.Copy(io.Discard, r)
		_ = cmd.Wait()
	}()
	select {
	case err = <-ready:
	case <-time.After(powershellTimeout):
		err = errors.New("no answer in time from " + powershell)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

func (s *windowsServer) readPorts(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		n, _ := fmt.Sscanf(line, "ready %d %d %d %d %d", &s.pid, &s.named.tcp, &s.named.udp, &s.hidden.tcp, &s.hidden.udp)
		if n == 5 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s served nothing", powershell)
		}
	}
}

// close ends the servers: it says so to one of them, and kills PowerShell if that does
// not help.
func (s *windowsServer) close(ctx context.Context, linux *lab.Host) {
	_ = linux.Do(func() error {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.named.tcp)
		c, err := net.DialTimeout("tcp4", at.String(), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err = c.Write([]byte("bye\n")); err == nil {
			_, err = io.Copy(&bytes.Buffer{}, c)
		}
		return err
	})
	select {
	case <-s.done:
		return
	case <-time.After(patience):
	}
	_, _, _ = windows.Run(ctx, windows.Timeout, "taskkill.exe", "/F", "/PID", strconv.Itoa(s.pid))
	s.kill()
}

// kill ends the Linux side.
func (s *windowsServer) kill() {
	_ = s.cmd.Process.Kill()
	select {
	case <-s.done:
	case <-time.After(patience): // something in Windows keeps the output open
	}
}
