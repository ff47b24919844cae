// Package systemd speaks with the service manager: readiness, the status line,
// the watchdog and the journal. Where there is no service manager it does
// nothing, so its callers need not ask.
package systemd

import (
	"errors"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
)

// A Notifier tells the service manager how the service is (sd_notify(3)).
type Notifier struct {
	// send sends, but in tests.
	send   func(unsetEnvironment bool, state string) (bool, error)
	ready  bool
	status string
}

// NewNotifier makes a Notifier.
func NewNotifier() *Notifier { return &Notifier{send: send} }

// send is daemon.SdNotify. A socket at which nobody listens is no service manager.
func send(unsetEnvironment bool, state string) (bool, error) {
	sent, err := daemon.SdNotify(unsetEnvironment, state)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return sent, err
}

// Managed reports whether this process is a service that tells its state.
func Managed() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Status shows sentence in "systemctl status" and says, if ready, that the
// service is. What the service manager knows already is not sent again. It is
// for one goroutine; the other methods are for any.
func (n *Notifier) Status(sentence string, ready bool) error {
	ready = ready || n.ready
	if ready == n.ready && sentence == n.status {
		return nil
	}
	msg := "STATUS=" + text.Escaped(sentence)
	if !n.ready && ready {
		msg = "READY=1\n" + msg
	}
	if _, err := n.send(false, msg); err != nil {
		return err
	}
	n.ready, n.status = ready, sentence
	return nil
}

// Stopping says that the service has begun to stop.
func (n *Notifier) Stopping() error {
	_, err := n.send(false, "STOPPING=1\nSTATUS=Stopping")
	return err
}

// failedPrefix begins the status line of a service that has ended with an error.
const failedPrefix = "Failed: "

// Failed says why the service ends. systemd keeps it for "systemctl status" until
// the next start, and shows it to every user.
func (n *Notifier) Failed(reason string) error {
	_, err := n.send(false, "STATUS="+failedPrefix+text.Escaped(reason))
	return err
}

// Alive is the sign of life that the watchdog waits for.
func (n *Notifier) Alive() error {
	_, err := n.send(false, "WATCHDOG=1")
	return err
}

// AliveEvery is how often Alive should be called, half of what the watchdog
// allows as sd_watchdog_enabled(3) advises, or 0 where there is no watchdog.
func AliveEvery() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0 // not for this process, or not a number
	}
	return d / 2
}
