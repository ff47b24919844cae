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
		return exitFailure, hinted{errors.New("the journal shows nothing of wslmirror.service" + sinceText(*since)), mayRead()}
	}
	return exitOK, nil
}

// mayRead says what else one can do who sees nothing.
func mayRead() string {
	if os.Geteuid() == 0 {
		return "'wslmirror status' says whether the service runs"
	}
	return "only root and the group adm may read it: try sudo; 'wslmirror status' says whether the service runs"
}

func sinceText(since string) string {
	if since == "" {
		return ""
	}
	return " since " + text.Line(since)
}

// readJournal runs journalctl and prints what it has. seen says that there was
// something.
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
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // ^C is for this process, which then ends it
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, hinted{errors.New("there is no journal: journalctl cannot be run"),
			"without systemd the daemon logs to standard error, where 'wslmirror run' was typed"}
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
		return seen, hinted{errors.New("there is no journal that could be read"), mayRead()}
	case err != nil && said != "":
		first, _, _ := strings.Cut(said, "\n")
		return seen, hinted{errors.New("journalctl: " + text.Line(first)), "see 'wslmirror help log'"}
	}
	return seen, err
}

// journalTime is a time as journalctl takes it. A duration is how long ago it was.
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

// parseEntry reads what journalctl prints as JSON. A message that is no text, or none at
// all, is skipped.
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

// show is an event for people, with a word and a mark where it is bad.
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

// stamped is a line with a time before it.
func stamped(at time.Time, line string) string {
	return at.Local().Format(time.DateTime) + "  " + line + "\n"
}
