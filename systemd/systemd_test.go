package systemd

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
)

func TestNotifierSendsWhatIsNew(t *testing.T) {
	var sent []string
	n := NewNotifier()
	n.send = func(unset bool, state string) (bool, error) {
		if unset {
			t.Error("unsets the environment")
		}
		sent = append(sent, state)
		return true, nil
	}
	n.Status("Failing", false)
	n.Status("Waiting", true)
	n.Status("Waiting", true)
	n.Status("Failing", false) // once ready, always ready
	n.Status("Serving", true)
	n.Status("in chain \n\x1bMAINPID=1", true)
	n.Alive()
	n.Stopping()
	n.Failed("no such\nflag")
	want := []string{
		"STATUS=Failing", "READY=1\nSTATUS=Waiting", "STATUS=Failing", "STATUS=Serving",
		`STATUS=in chain \n\x1bMAINPID=1`, "WATCHDOG=1", "STOPPING=1\nSTATUS=Stopping", `STATUS=Failed: no such\nflag`,
	}
	if !reflect.DeepEqual(sent, want) {
		t.Errorf("sent %q\nwant %q", sent, want)
	}
}

func TestNotifierSendsAgainWhatWasNotSent(t *testing.T) {
	fail := errors.New("no buffer space")
	var sent []string
	n := NewNotifier()
	n.send = func(_ bool, state string) (bool, error) {
		sent = append(sent, state)
		return fail == nil, fail
	}
	if err := n.Status("Serving", true); !errors.Is(err, fail) {
		t.Errorf("Status: %v", err)
	}
	fail = nil
	if err := n.Status("Serving", true); err != nil {
		t.Error(err)
	}
	if len(sent) != 2 || sent[1] != "READY=1\nSTATUS=Serving" {
		t.Errorf("sent %q", sent)
	}
}

// The messages arrive at the service manager's end of the socket.
func TestNotifySocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := NewNotifier().Status("Serving", true); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	manager.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := manager.Read(b)
	if err != nil || string(b[:n]) != "READY=1\nSTATUS=Serving" {
		t.Errorf("received %q, %v", b[:n], err)
	}
}

func TestWithoutServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	if err := NewNotifier().Status("Serving", true); err != nil {
		t.Error(err)
	}
	if d := AliveEvery(); d != 0 {
		t.Errorf("AliveEvery() = %v", d)
	}
}

func TestAliveEvery(t *testing.T) {
	for usec, want := range map[string]time.Duration{
		"60000000": 30 * time.Second,
		"nonsense": 0,
		"-1":       0,
	} {
		t.Setenv("WATCHDOG_USEC", usec)
		t.Setenv("WATCHDOG_PID", "")
		if got := AliveEvery(); got != want {
			t.Errorf("WATCHDOG_USEC=%s: %v, want %v", usec, got, want)
		}
	}
}

func TestJournalHook(t *testing.T) {
	type entry struct {
		message string
		prio    journal.Priority
		vars    map[string]string
	}
	var got []entry
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.DebugLevel)
	l.AddHook(journalHook{func(m string, p journal.Priority, v map[string]string) error {
		got = append(got, entry{m, p, v})
		return nil
	}})
	l.WithFields(logrus.Fields{"index": 7, "runtime-dir": "/x"}).Info("hello")
	l.WithError(errors.New("broken")).Error("could not look")
	l.Warn("hm")
	l.Debug("detail")
	// Any program can name a chain like this.
	l.WithField("chain", "\x1b[2J\u202e\nPRIORITY=0\xff").WithError(errors.New("in chain \u009b2J")).Warn("a \"bad\" one\a")
	want := []entry{
		{"hello", journal.PriInfo, map[string]string{"SYSLOG_IDENTIFIER": "wslmirror", "WSLMIRROR_INDEX": "7", "WSLMIRROR_RUNTIME_DIR": "/x"}},
		{"could not look: broken", journal.PriErr, map[string]string{"SYSLOG_IDENTIFIER": "wslmirror", "WSLMIRROR_ERROR": "broken"}},
		{"hm", journal.PriWarning, map[string]string{"SYSLOG_IDENTIFIER": "wslmirror"}},
		{"detail", journal.PriDebug, map[string]string{"SYSLOG_IDENTIFIER": "wslmirror"}},
		{`a \"bad\" one\a: in chain \u009b2J`, journal.PriWarning, map[string]string{
			"SYSLOG_IDENTIFIER": "wslmirror", "WSLMIRROR_ERROR": `in chain \u009b2J`, "WSLMIRROR_CHAIN": `\x1b[2J\u202e\nPRIORITY=0\xff`,
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestLogStaysWhereStderrIsNoJournal(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	l := logrus.New()
	out := l.Out
	LogToJournal(l)
	if l.Out != out || len(l.Hooks) != 0 {
		t.Error("changed a logger that does not write to the journal")
	}
}
