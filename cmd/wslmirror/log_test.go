package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// A journalctl that writes down its arguments, and has what systemd's has.
const journal = `printf '%s\n' "$@" >$JOURNAL_ARGS
cat <<'END'
{"__REALTIME_TIMESTAMP":"1764237616000000","PRIORITY":"6","MESSAGE":"8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy"}
{"__REALTIME_TIMESTAMP":"1764237617000000","PRIORITY":"4","MESSAGE":"removed for the third time"}
{"__REALTIME_TIMESTAMP":"1764237618000000","PRIORITY":"3","MESSAGE":"could not look: \u001b[31m"}
{"__REALTIME_TIMESTAMP":"1764237619000000","MESSAGE":[1,2]}
{"__REALTIME_TIMESTAMP":"1764237620000000","MESSAGE":null}
no JSON
{"__REALTIME_TIMESTAMP":"1764237621000000","MESSAGE":"Started wslmirror.service."}
END
`

func TestLog(t *testing.T) {
	args := filepath.Join(t.TempDir(), "args")
	t.Setenv("JOURNAL_ARGS", args)
	labtest.Programs(t, map[string]string{"journalctl": journal})
	at := func(second int64) string { return time.Unix(1764237600+second, 0).Format(time.DateTime) }
	want := at(16) + "  8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy\n" +
		at(17) + "  ! warning: removed for the third time\n" +
		at(18) + "  ✗ error: could not look: ?[31m\n" +
		at(21) + "  Started wslmirror.service.\n"
	for typed, given := range map[string]string{
		"log":                    "",
		"log --since 1h30m":      "--since=-5400s",
		"log --since=today":      "--since=today",
		"log --since --until=-1": "--since=--until=-1", // never a flag of its own
		"log -f":                 "--follow --lines=20",
		"log -f --since 2s":      "--since=-2s --follow",
	} {
		code, stdout, stderr := call(strings.Fields(typed)...)
		if code != exitOK || stdout != want || stderr != "" {
			t.Errorf("%s: exit %d, stderr %q, stdout\n%s\nwant\n%s", typed, code, stderr, stdout, want)
		}
		b, err := os.ReadFile(args)
		if got := strings.Join(strings.Fields(string(b)), " "); err != nil || got != strings.TrimSpace("--unit=wslmirror.service --unit=wslmirror-hold.service --output=json --no-pager "+given) {
			t.Errorf("%s: journalctl %s, %v", typed, got, err)
		}
	}
}

// Where there is nothing to show, it says why and what to do.
func TestLogWithoutAJournal(t *testing.T) {
	for name, test := range map[string]struct{ journalctl, error, hint string }{
		"absent":     {"", "cannot run journalctl: there is no journal", "without systemd the daemon logs to standard error"},
		"no files":   {"echo 'No journal files were found.' >&2", "found no readable journal", "wslmirror status"},
		"empty":      {"exit 0", "the journal contains nothing from wslmirror.service since yesterday", "wslmirror status"},
		"wrong time": {"echo 'Failed to parse timestamp: yesterday' >&2; exit 1", "journalctl: Failed to parse timestamp: yesterday", "see 'wslmirror help log'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", "/usr/bin:/bin")
			if test.journalctl == "" {
				t.Setenv("PATH", t.TempDir())
			} else {
				labtest.Programs(t, map[string]string{"journalctl": test.journalctl})
			}
			code, stdout, stderr := call("log", "--since", "yesterday")
			if code != exitFailure || stdout != "" || !strings.HasPrefix(stderr, "wslmirror: "+test.error+"\nhint: ") || !strings.Contains(stderr, test.hint) {
				t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

// ^C ends it well, and the journalctl that it has started.
func TestLogEnds(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	t.Setenv("JOURNAL_PID", pid)
	labtest.Programs(t, map[string]string{"journalctl": "echo $$ >$JOURNAL_PID.new; mv $JOURNAL_PID.new $JOURNAL_PID\nexec sleep 1000"})
	done := make(chan int)
	go func() {
		code, _, _ := call("log", "-f")
		done <- code
	}()
	labtest.Eventually(t, "journalctl runs", func() bool { _, err := os.Stat(pid); return err == nil })
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != exitOK {
		t.Errorf("exit %d", code)
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err == nil {
		t.Error("journalctl goes on")
	}
}
