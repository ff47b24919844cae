// Command wslmirror makes 127.0.0.1 mean the same in Windows and in Linux, in
// the WSL2 modes with a shared localhost (mirrored, consomme).
//
// The daemon does so little that it needs no word of the cgroup's CPU limit; the
// runtime would open files for it, and look into them again and again.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/wslmirror/wslmirror/internal/text"
)

// version is stamped by the linker: -ldflags "-X main.version=1.2.3".
var version = "devel"

// The exit codes.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitNotActive = 3
	// exitConfig is EX_CONFIG of sysexits.h: run has bad options. The unit does not
	// restart the service after it (RestartPreventExitStatus=).
	exitConfig = 78
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// A verb is one of the program's commands. It returns the exit code.
type verb struct {
	name string
	run  func(args []string, stdout io.Writer) (int, error)
}

var verbs = []verb{
	{"run", runDaemon},
	{"status", showStatus},
	{"trace", showTrace},
	{"ports", showPorts},
	{"doctor", showDoctor},
	{"cleanup", cleanup},
	{"version", printVersion},
	{"help", printHelp},
}

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	code, err := dispatch(args, stdout)
	if err == nil {
		return code
	}
	fmt.Fprintf(stderr, "wslmirror: %s\n", oneLine(err))
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintf(stderr, "hint: %s\n", text.Line(h.hint))
	}
	return code
}

// oneLine is the text of an error, joined or not, fit for a terminal.
func oneLine(err error) string { return text.Line(strings.ReplaceAll(err.Error(), "\n", "; ")) }

func dispatch(args []string, stdout io.Writer) (int, error) {
	if len(args) == 0 {
		return exitUsage, usageError("a command is missing")
	}
	name, args := args[0], args[1:]
	switch name {
	case "--help", "-help", "-h":
		name = "help"
	case "--version", "-version":
		name = "version"
	}
	for _, v := range verbs {
		if v.name == name {
			return v.run(args, stdout)
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
	return hinted{fmt.Errorf(format, args...), "see 'wslmirror help'"}
}

// parse parses the arguments of a verb, which takes flags only.
func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	if err := flags.Parse(args); err != nil {
		return hinted{err, "see 'wslmirror help'"}
	}
	if flags.NArg() > 0 {
		return usageError("%s takes no argument %q", flags.Name(), flags.Arg(0))
	}
	return nil
}

func printVersion(args []string, stdout io.Writer) (int, error) {
	if err := parse(flag.NewFlagSet("version", flag.ContinueOnError), args); err != nil {
		return usageExit(err, stdout)
	}
	fmt.Fprintf(stdout, "wslmirror %s\n", version)
	return exitOK, nil
}

func printHelp(args []string, stdout io.Writer) (int, error) {
	if err := parse(flag.NewFlagSet("help", flag.ContinueOnError), args); err != nil {
		return usageExit(err, stdout)
	}
	fmt.Fprint(stdout, usage)
	return exitOK, nil
}

// usageExit answers a failed parse: --help is a question, not a mistake.
func usageExit(err error, stdout io.Writer) (int, error) {
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return exitOK, nil
	}
	return exitUsage, err
}
