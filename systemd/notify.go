// Package systemd talks to the service manager: readiness, the status line, the watchdog
// and the journal. Without a service manager its functions do nothing, so callers need not
// check.
package systemd

import (
	"errors"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
)

// A Notifier tells the service manager the state of the service (sd_notify(3)).
type Notifier struct {
	// send is the function send, except in tests.
	send   func(unsetEnvironment bool, state string) (bool, error)
	ready  bool
	status string
}

// NewNotifier makes a Notifier.
func NewNotifier() *Notifier { return &Notifier{send: send} }

// send is daemon.SdNotify, but ignores a socket on which nothing listens.
func send(unsetEnvironment bool, state string) (bool, error) {
	sent, err := daemon.SdNotify(unsetEnvironment, state)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return sent, err
}

// Managed reports whether this process is a service that should report its state.
func Managed() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Status shows sentence in "systemctl status" and, if ready is set, reports that the
// service is ready. It sends nothing that the service manager already knows. Only one
// goroutine may call it; any may call the other methods.
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

// Stopping reports that the service has begun to stop.
func (n *Notifier) Stopping() error {
	_, err := n.send(false, "STOPPING=1\nSTATUS=Stopping")
	return err
}

// failedPrefix begins the status line of a service that has ended with an error.
const failedPrefix = "Failed: "

// Failed reports why the service ends. systemd keeps the reason until the next start, and
// "systemctl status" shows it to every user.
func (n *Notifier) Failed(reason string) error {
	_, err := n.send(false, "STATUS="+failedPrefix+text.Escaped(reason))
	return err
}

// Alive tells the watchdog that the service is alive.
func (n *Notifier) Alive() error {
	_, err := n.send(false, "WATCHDOG=1")
	return err
}

// AliveEvery returns how often to call Alive: half of the watchdog's timeout, as
// sd_watchdog_enabled(3) advises, or 0 if there is no watchdog.
func AliveEvery() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0 // not for this process, or not a number
	}
	return d / 2
}
