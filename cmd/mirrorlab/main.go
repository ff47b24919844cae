// Command mirrorlab is the bench as a program: WSL2's modes with a shared localhost in
// network namespaces, to see the fault and its cure without Windows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/field"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// The exit codes. That of shell is the shell's own.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	sandbox.Enter()
	field.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio is where a command reads and writes: its result goes to out, and all
// else to err.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// A verb is one of the program's commands. It returns the exit code.
type verb struct {
	name string
	run  func(ctx context.Context, args []string, std stdio) (int, error)
}

var verbs = []verb{
	{"demo", runDemo},
	{"shell", runShell},
	{"matrix", runMatrix},
	{"directions", runDirections},
	{"bench", runBench},
	{"chaos", runChaos},
	{"soak", runSoak},
	{"field", runField},
	{"help", printHelp},
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	code, err := dispatch(ctx, args, std)
	if err == nil {
		return code
	}
	var h hinted
	switch {
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	case !errors.As(err, &h) && errors.Is(err, fs.ErrPermission):
		h = hinted{err, "the bench needs root: run it with sudo"}
	}
	fmt.Fprintf(std.err, "mirrorlab: %v\n", err)
	if h.hint != "" {
		fmt.Fprintf(std.err, "hint: %s\n", h.hint)
	}
	return code
}

func dispatch(ctx context.Context, args []string, std stdio) (int, error) {
	if len(args) == 0 {
		return exitUsage, usageError("a command is missing")
	}
	name, args := args[0], args[1:]
	switch name {
	case "--help", "-help", "-h":
		name = "help"
	}
	for _, v := range verbs {
		if v.name == name {
			return v.run(ctx, args, std)
		}
	}
	if strings.HasPrefix(name, "-") {
		return exitUsage, usageError("flag %s has no place before the command", name)
	}
	return exitUsage, usageError("there is no command %q", name)
}

// hinted is an error with what the user can do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func usageError(format string, args ...any) error {
	return hinted{fmt.Errorf(format, args...), "see 'mirrorlab help'"}
}

// parse parses the arguments of a verb, which takes flags only.
func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	if err := flags.Parse(args); err != nil {
		return usageError("%w", err)
	}
	if flags.NArg() > 0 {
		return usageError("%s takes no argument %q", flags.Name(), flags.Arg(0))
	}
	return nil
}

// modeFlag is the flag --mode of a verb.
func modeFlag(flags *flag.FlagSet) *lab.Mode {
	mode := new(lab.Mode)
	flags.TextVar(mode, "mode", lab.Mirrored, "")
	return mode
}

func printHelp(_ context.Context, args []string, std stdio) (int, error) {
	if err := parse(flag.NewFlagSet("help", flag.ContinueOnError), args); err != nil {
		return usageExit(err, std)
	}
	fmt.Fprint(std.out, usage)
	return exitOK, nil
}

// usageExit answers a failed parse: --help is a question, not a mistake.
func usageExit(err error, std stdio) (int, error) {
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(std.out, usage)
		return exitOK, nil
	}
	return exitUsage, err
}
