package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
)

// How often the watched daemon is asked for a new snapshot: soon after a change, and
// less and less often while nothing changes. Its file is checked
// more often: the daemon writes it whenever something changes in the kernel.
const (
	soonest = 500 * time.Millisecond
	latest  = 8 * time.Second
)

// watchStatus shows the state and each change of it until ctx is done. On a terminal it
// redraws everything in place; elsewhere it prints a line for each change.
func watchStatus(ctx context.Context, dir string, asJSON bool, stdout io.Writer) (int, error) {
	show := watchLines(stdout)
	resized := make(chan os.Signal, 1)
	_, isTerminal := terminal(stdout)
	switch {
	case asJSON:
		show = func(s status.Snapshot, _ surroundings) error { return json.NewEncoder(stdout).Encode(timed(s)) }
	case isTerminal:
		fmt.Fprint(stdout, "\x1b[?1049h\x1b[?25l") // the alternate screen, without a cursor
		defer fmt.Fprint(stdout, "\x1b[?25h\x1b[?1049l")
		signal.Notify(resized, unix.SIGWINCH)
		defer signal.Stop(resized)
		show = watchScreen(stdout)
	}
	tick := time.NewTicker(soonest)
	defer tick.Stop()
	var shown status.Snapshot
	var file os.FileInfo
	var asked time.Time
	var here surroundings
	pause := soonest
	for {
		now, _ := os.Stat(filepath.Join(dir, "status.json"))
		if file != nil && now != nil && !os.SameFile(file, now) {
			pause = soonest // something has changed
		}
		if time.Since(asked) >= pause {
			s, at, err := lookAtStatus(dir)
			if err != nil {
				return exitFailure, err
			}
			asked = time.Now()
			now, _ = os.Stat(filepath.Join(dir, "status.json")) // which the daemon has just written
			if pause = min(2*pause, latest); !sameStatus(s, shown) {
				pause, here, shown = soonest, at, s
				if err := show(s, here); err != nil {
					return exitFailure, err
				}
			}
		}
		file = now
		select {
		case <-ctx.Done():
			return exitOK, nil
		case <-resized:
			if err := show(shown, here); err != nil {
				return exitFailure, err
			}
		case <-tick.C:
		}
	}
}

// sameStatus reports whether two snapshots are equal, except for the time when the
// kernel was read.
func sameStatus(a, b status.Snapshot) bool {
	a.Updated = b.Updated
	one, _ := json.Marshal(a)
	other, _ := json.Marshal(b)
	return bytes.Equal(one, other)
}

// watchLines writes a line for each change: of the state, of ports, and of what was
// counted.
func watchLines(w io.Writer) func(status.Snapshot, surroundings) error {
	var last status.Snapshot
	return func(s status.Snapshot, _ surroundings) error {
		var lines []string
		if s.State != last.State || s.Sentence() != last.Sentence() {
			lines = append(lines, s.String())
		}
		lines = append(lines, status.Changes(last, s)...)
		if s.Rule.Packets != last.Rule.Packets {
			lines = append(lines, plural(s.Rule.Packets, "connection")+" from Windows so far")
		}
		last = s
		for i, line := range lines {
			lines[i] = stamped(time.Now(), text.Line(line))
		}
		_, err := io.WriteString(w, strings.Join(lines, ""))
		return err
	}
}

// watchScreen draws the whole state over the last one. It erases only the rest
// of each line, so nothing flickers, and writes at most as many lines as the screen has.
func watchScreen(w io.Writer) func(status.Snapshot, surroundings) error {
	return func(s status.Snapshot, here surroundings) error {
		here.lookAround(s)
		here.now = time.Time{} // "5 s ago" would soon be out of date
		var b bytes.Buffer
		if err := printStatus(&b, screenOf(w), s, here); err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if size, _ := terminal(w); size.Row > 0 {
			lines = lines[:min(len(lines), int(size.Row))]
		}
		_, err := io.WriteString(w, "\x1b[H"+strings.Join(lines, "\x1b[K\n")+"\x1b[K\x1b[J")
		return err
	}
}
