package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
)

// showLog shows what the service has logged.
func showLog(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	since := flags.String("since", "", "")
	follow := flags.Bool("f", false, "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, stdout)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	seen, err := readJournal(ctx, *since, *follow, screenOf(stdout), stdout)
	switch {
	case ctx.Err() != nil:
		return exitOK, nil
	case err != nil:
		return exitFailure, err
	case !seen:
		return exitFailure, hinted{errors.New("the journal contains nothing from wslmirror.service" + sinceText(*since)), mayRead()}
	}
	return exitOK, nil
}

// mayRead is the hint for a user who sees nothing.
func mayRead() string {
	if os.Geteuid() == 0 {
		return "'wslmirror status' shows whether the service runs"
	}
	return "only root and the group adm can read the journal: try sudo; 'wslmirror status' shows whether the service runs"
}

func sinceText(since string) string {
	if since == "" {
		return ""
	}
	return " since " + text.Line(since)
}

// readJournal runs journalctl and prints its lines. seen says that there was
// a line.
func readJournal(ctx context.Context, since string, follow bool, on screen, w io.Writer) (seen bool, err error) {
	args := []string{"--unit=wslmirror.service", "--unit=wslmirror-hold.service", "--output=json", "--no-pager"}
	if since != "" {
		args = append(args, "--since="+journalTime(since))
	}
	if follow {
		args = append(args, "--follow")
		if since == "" {
			args = append(args, "--lines=20")
		}
	}
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // ^C reaches this process only, which then ends journalctl
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, hinted{errors.New("cannot run journalctl: there is no journal"),
			"without systemd the daemon logs to standard error, in the terminal where 'wslmirror run' was started"}
	}
	lines := bufio.NewReader(out)
	for {
		line, readErr := lines.ReadBytes('\n')
		if e, ok := parseEntry(line); ok {
			seen = true
			if _, err := io.WriteString(w, e.show(on)); err != nil {
				return seen, err
			}
		}
		if readErr != nil {
			break
		}
	}
	err = cmd.Wait()
	said := strings.TrimSpace(errs.String())
	switch {
	case strings.Contains(said, "No journal files"):
		return seen, hinted{errors.New("found no readable journal"), mayRead()}
	case err != nil && said != "":
		first, _, _ := strings.Cut(said, "\n")
		return seen, hinted{errors.New("journalctl: " + text.Line(first)), "see 'wslmirror help log'"}
	}
	return seen, err
}

// journalTime is a time as journalctl takes it. A duration means that long ago.
func journalTime(since string) string {
	if d, err := time.ParseDuration(since); err == nil {
		return fmt.Sprintf("-%ds", int(d.Abs().Seconds()))
	}
	return since
}

// An event is a line of the log.
type event struct {
	at       time.Time
	priority int // of syslog: 3 is an error, 4 a warning, 6 a notice to people, 7 for debugging
	message  string
}

// parseEntry reads a line of JSON from journalctl. An entry without a text message
// is skipped.
func parseEntry(line []byte) (e event, ok bool) {
	var entry struct {
		Time     string `json:"__REALTIME_TIMESTAMP"`
		Priority string `json:"PRIORITY"`
		Message  any    `json:"MESSAGE"`
	}
	if json.Unmarshal(line, &entry) != nil {
		return e, false
	}
	micros, err := strconv.ParseInt(entry.Time, 10, 64)
	if err != nil {
		return e, false
	}
	if e.priority, err = strconv.Atoi(entry.Priority); err != nil {
		e.priority = 6
	}
	e.at = time.UnixMicro(micros)
	e.message, ok = entry.Message.(string)
	return e, ok
}

// show is an event for people. A warning or an error has a word and a mark.
func (e event) show(on screen) string {
	message := text.Line(e.message)
	switch {
	case e.priority <= 3:
		message = on.mark(markFault, "error") + ": " + message
	case e.priority == 4:
		message = on.mark(markWarning, "warning") + ": " + message
	}
	return stamped(e.at, message)
}

// stamped is a line that begins with a time.
func stamped(at time.Time, line string) string {
	return at.Local().Format(time.DateTime) + "  " + line + "\n"
}
