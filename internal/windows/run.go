package windows

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
)

const (
	// system32 has Windows' programs. It is used if PATH does not contain them, as
	// under sudo or with appendWindowsPath=false in /etc/wsl.conf.
	system32 = "/mnt/c/Windows/System32"
	// powershell is where powershell.exe is, within system32.
	powershell = "WindowsPowerShell/v1.0"

	// Timeout is how long a program may take. Interop answers much faster, or not at
	// all.
	Timeout = 3 * time.Second
	// afterwards is how long a program's output may stay open after its end.
	afterwards = time.Second

	// mostOutput is far more than a busy Windows prints.
	mostOutput = 4 << 20
)

// A Problem is why a program gave no answer.
type Problem int

// The problems.
const (
	Absent       Problem = iota // the program does not exist
	Disabled                    // WSL's interop is off
	Slow                        // no answer in time
	Failing                     // it ended with an error
	Unexpected                  // its output was not as expected
	NotPermitted                // this user may not run it
)

// An Error says why a program gave no answer, in one line for people.
type Error struct {
	Program string // its file name, for example netsh.exe
	Problem Problem
	Detail  string // more information, may be hostile
}

func (e *Error) Error() string {
	switch e.Problem {
	case Absent:
		if !strings.Contains(e.Program, ".exe") {
			return fmt.Sprintf("no %s in PATH: this is not WSL, or an old one", e.Program)
		}
		return fmt.Sprintf("no %s, neither in PATH nor in %s: Windows' drive is not mounted, or this is not WSL", e.Program, system32)
	case Disabled:
		return "Windows' programs cannot be run: WSL's interop is off (see [interop] in /etc/wsl.conf)"
	case Slow:
		return fmt.Sprintf("no answer in time from %s", e.Program)
	case NotPermitted:
		return fmt.Sprintf("this user may not run %s", e.Program)
	case Unexpected:
		return fmt.Sprintf("cannot understand %s: %s", e.Program, e.Detail)
	default:
		return fmt.Sprintf("cannot ask %s: %s", e.Program, e.Detail)
	}
}

// Summary lists each problem once. If several programs have the same problem, one line
// names them all.
func Summary(errs ...error) []string {
	type cause struct {
		problem Problem
		detail  string
	}
	var order []cause
	names := map[cause][]string{}
	for _, err := range errs {
		var e *Error
		if !errors.As(err, &e) {
			continue
		}
		c := cause{e.Problem, e.Detail}
		if names[c] == nil {
			order = append(order, c)
		}
		if !slices.Contains(names[c], e.Program) {
			names[c] = append(names[c], e.Program)
		}
	}
	lines := make([]string, 0, len(order))
	for _, c := range order {
		e := &Error{strings.Join(names[c], " and "), c.problem, c.detail}
		lines = append(lines, e.Error())
	}
	return lines
}

// Excluded returns the ranges that Windows keeps from its programs, sorted. proto is
// "tcp" or "udp". The error is an *Error, as with all functions here.
func Excluded(ctx context.Context, proto string) ([]Range, error) {
	return ask(ctx, ParseExcluded, "netsh.exe", "int", "ipv4", "show", "excludedportrange", "protocol="+proto)
}

// Dynamic returns the range from which Windows itself chooses source ports.
func Dynamic(ctx context.Context, proto string) (Range, error) {
	return ask(ctx, ParseDynamic, "netsh.exe", "int", "ipv4", "show", "dynamicportrange", "protocol="+proto)
}

// Listeners returns the IPv4 sockets of Windows programs that wait for clients, sorted
// by port.
func Listeners(ctx context.Context, proto string) ([]Listener, error) {
	return ask(ctx, ParseListeners, "netstat.exe", "-ano", "-p", proto)
}

// NetworkingMode returns WSL's networking mode as wslinfo prints it: nat, mirrored,
// consomme…
func NetworkingMode(ctx context.Context) (string, error) {
	return ask(ctx, parseWord, "wslinfo", "--networking-mode")
}

// Version returns the WSL version, for example 2.9.4.0.
func Version(ctx context.Context) (string, error) {
	// The option is now called --version, but WSL still accepts the old name.
	return ask(ctx, parseWord, "wslinfo", "--wsl-version")
}

// parseWord parses a single word.
func parseWord(out []byte) (string, error) {
	word := string(bytes.TrimSpace(out))
	hidden := func(r rune) bool { return unicode.IsSpace(r) || !text.Visible(r) }
	if word == "" || len(word) > 40 || strings.ContainsFunc(word, hidden) || !utf8.ValidString(word) {
		return "", errNonsense
	}
	return word, nil
}

// ask runs a program and parses its output.
func ask[T any](ctx context.Context, parse func([]byte) (T, error), program string, args ...string) (T, error) {
	var answer T
	out, err := run(ctx, program, args...)
	if err != nil {
		return answer, err
	}
	if answer, err = parse(out); err != nil {
		return answer, &Error{program, Unexpected, err.Error()}
	}
	return answer, nil
}

// run returns the output of a program.
func run(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, code, err := Run(ctx, Timeout, program, args...)
	if err != nil || code == 0 {
		return out, err
	}
	detail := fmt.Sprintf("exit status %d", code)
	if line := firstLine(out); line != "" {
		detail += ": " + line
	}
	return nil, &Error{program, Failing, detail}
}

// Run runs a program for at most timeout, and returns what it printed on both its
// outputs and its exit status. The error is an *Error, of what kept it from its end.
func Run(ctx context.Context, timeout time.Duration, program string, args ...string) (out []byte, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd, err := Command(ctx, program, args...)
	if err != nil {
		return nil, 0, err
	}
	to := &limited{most: mostOutput}
	cmd.Stdout, cmd.Stderr = to, to
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case to.full:
		return nil, 0, &Error{program, Unexpected, fmt.Sprintf("it printed more than %d MiB", mostOutput>>20)}
	case err == nil:
		return to.Bytes(), 0, nil
	case ctx.Err() != nil, errors.Is(err, exec.ErrWaitDelay):
		return nil, 0, &Error{program, Slow, ""}
	case errors.As(err, &exit) && exit.Exited():
		return to.Bytes(), exit.ExitCode(), nil
	case errors.Is(err, unix.ENOEXEC):
		// No handler for Windows' programs is registered (binfmt_misc).
		return nil, 0, &Error{program, Disabled, ""}
	case errors.Is(err, fs.ErrPermission):
		return nil, 0, &Error{program, NotPermitted, ""}
	}
	detail := err.Error()
	if line := firstLine(to.Bytes()); line != "" {
		detail += ": " + line
	}
	return nil, 0, &Error{program, Failing, detail}
}

// Command finds a program and returns a command that runs it until ctx is done. The
// error is an *Error.
func Command(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	path, err := findIn(ctx, program)
	if ctx.Err() != nil {
		return nil, &Error{program, Slow, ""}
	}
	if err != nil {
		return nil, &Error{program, Absent, ""}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = afterwards
	// Interop passes on the working directory. If that is a Linux folder, Windows first
	// starts a file server.
	cmd.Dir = filepath.Dir(path)
	return cmd, nil
}

// findIn is find with a context: PATH may contain folders on Windows drives, which may
// hang.
func findIn(ctx context.Context, program string) (path string, err error) {
	type place struct {
		path string
		err  error
	}
	found := make(chan place, 1)
	go func() {
		path, err := find(program)
		found <- place{path, err}
	}()
	select {
	case p := <-found:
		return p.path, p.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// find looks up a program.
func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil || !strings.HasSuffix(program, ".exe") {
		return path, err
	}
	for _, dir := range []string{system32, filepath.Join(system32, powershell)} {
		path = filepath.Join(dir, program)
		if _, err = os.Stat(path); err == nil {
			break
		}
	}
	return path, err
}

// firstLine returns the first line of out that is not empty. It returns "" if that line
// is not UTF-8, as in another code page.
func firstLine(out []byte) string {
	for line := range bytes.Lines(out) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if !utf8.Valid(line) {
				return ""
			}
			return string(line[:min(len(line), 200)])
		}
	}
	return ""
}

// limited keeps what is written to it, up to most bytes. Then it fails, which ends the
// writing program.
type limited struct {
	bytes.Buffer
	most int
	full bool
}

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > l.most {
		l.full = true
		return 0, io.ErrShortWrite
	}
	return l.Buffer.Write(b)
}

// ReadFrom hides Buffer's method, which ignores the limit.
func (l *limited) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{l}, r)
}
