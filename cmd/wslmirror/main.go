// Command wslmirror makes 127.0.0.1 mean the same in Windows and in Linux, in
// the WSL2 modes with a shared localhost (mirrored, consomme).
//
// The daemon needs little CPU: ignore the cgroup CPU limit. Otherwise the runtime opens
// the files of the cgroup and reads them periodically.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
)

// version is stamped by the linker: -ldflags "-X main.version=1.2.3".
var version = "devel"

// The exit codes.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitNotActive = 3 // of status
	exitUnknown   = 3 // of trace and ports: the answer is unknown
	// exitConfig is EX_CONFIG of sysexits.h: bad options of run. The unit does not
	// restart the service then (RestartPreventExitStatus=).
	exitConfig = 78
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// A verb is one of the program's commands. It returns the exit code.
type verb struct {
	name string
	run  func(args []string, stdout io.Writer) (int, error)
}

var verbs = []verb{
	{"run", service(serve)},
	{"hold", service(serveHold)},
	{"status", showStatus},
	{"trace", showTrace},
	{"ports", showPorts},
	{"doctor", showDoctor},
	{"log", showLog},
	{"cleanup", cleanup},
	{"version", printVersion},
	{"help", nil}, // printHelp, which reads this list
}

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
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

// oneLine is the text of an error, joined or not, in one line and safe for a terminal.
func oneLine(err error) string { return text.Line(strings.ReplaceAll(err.Error(), "\n", "; ")) }

func dispatch(args []string, stdout io.Writer) (int, error) {
	name, args := args[0], args[1:]
	switch name {
	case "--help", "-help", "-h":
		name = "help"
	case "--version", "-version", "-v":
		name = "version"
	}
	v, err := findVerb(name)
	if err != nil {
		return exitUsage, err
	}
	if v.run == nil {
		return printHelp(args, stdout)
	}
	return v.run(args, stdout)
}

func findVerb(name string) (verb, error) {
	var names []string
	for _, v := range verbs {
		if v.name == name {
			return v, nil
		}
		names = append(names, v.name)
	}
	if strings.HasPrefix(name, "-") {
		return verb{}, usageError("put %s after the command", name)
	}
	return verb{}, usageError("unknown command %q%s", name, suggestion(name, names))
}

// hinted is an error with a hint for the user.
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
	words, err := parseAll(flags, args)
	if err == nil && len(words) > 0 {
		err = usageError("%s takes no argument %q", flags.Name(), words[0])
	}
	return err
}

// parseAll parses flags wherever they stand among the words, and returns these.
func parseAll(flags *flag.FlagSet, args []string) (words []string, err error) {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	for {
		if err := flags.Parse(args); err != nil {
			return nil, flagError(flags, err)
		}
		if flags.NArg() == 0 {
			return words, nil
		}
		words, args = append(words, flags.Arg(0)), flags.Args()[1:]
	}
}

// flagError is an error of package flag in plain words.
func flagError(flags *flag.FlagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return helpWanted{flags.Name(), err}
	}
	said := err.Error()
	if name, found := strings.CutPrefix(said, "flag provided but not defined: -"); found {
		var names []string
		flags.VisitAll(func(f *flag.Flag) { names = append(names, dashed(f.Name)) })
		said = fmt.Sprintf("%s has no flag %s%s", flags.Name(), dashed(name), suggestion(dashed(name), names))
	} else if name, found := strings.CutPrefix(said, "flag needs an argument: -"); found {
		said = dashed(name) + " needs an argument"
	} else if rest, found := strings.CutPrefix(said, "invalid boolean value "); found {
		if value, rest, found := strings.Cut(rest, " for -"); found {
			name, why, _ := strings.Cut(rest, ": ")
			if why == "parse error" {
				why = value + " is neither true nor false"
			}
			said = dashed(name) + ": " + why
		}
	}
	return hinted{errors.New(said), "see 'wslmirror help " + flags.Name() + "'"}
}

// dashed is a flag as people type it.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// runtimeDir adds the flag --runtime-dir.
func runtimeDir(flags *flag.FlagSet) *string {
	return flags.String("runtime-dir", cmp.Or(os.Getenv("WSLMIRROR_RUNTIME_DIR"), status.DefaultDir), "")
}

func printVersion(args []string, stdout io.Writer) (int, error) {
	if err := parse(flag.NewFlagSet("version", flag.ContinueOnError), args); err != nil {
		return usageExit(err, stdout)
	}
	fmt.Fprintf(stdout, "wslmirror %s\n", version)
	return exitOK, nil
}

func printHelp(args []string, stdout io.Writer) (int, error) {
	words, err := parseAll(flag.NewFlagSet("help", flag.ContinueOnError), args)
	if err != nil {
		return usageExit(err, stdout)
	}
	text := usage
	if len(words) > 0 {
		v, err := findVerb(words[0])
		if err != nil {
			return exitUsage, err
		}
		text = usageOf(v.name)
	}
	fmt.Fprint(stdout, text)
	return exitOK, nil
}

// helpWanted is flag.ErrHelp, and the verb that --help followed.
type helpWanted struct {
	verb string
	error
}

func (h helpWanted) Unwrap() error { return h.error }

// usageExit handles a failed parse: --help prints the usage, and is no error.
func usageExit(err error, stdout io.Writer) (int, error) {
	var h helpWanted
	if errors.As(err, &h) {
		fmt.Fprint(stdout, usageOf(h.verb))
		return exitOK, nil
	}
	return exitUsage, err
}

// usageOf is the part of the usage about one verb.
func usageOf(verb string) string {
	lines := strings.SplitAfter(usage, "\n")
	// part is the lines that begin with prefix, and their continuation lines.
	part := func(prefix string) (text string) {
		in := false
		for _, l := range lines {
			if !strings.HasPrefix(l, "    ") {
				in = strings.HasPrefix(l, prefix+" ") || strings.HasPrefix(l, prefix+"\n")
			}
			if in {
				text += l
			}
		}
		return text
	}
	return "Usage:\n" + part("  wslmirror "+verb) + "\n" + part("  "+verb)
}
