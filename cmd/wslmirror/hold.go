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
	"strconv"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/hold"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/systemd"
)

// holdEnv turns the holder off if it is false. It is set in /etc/default/wslmirror, where
// WSLMIRROR_OPTS are the options of the daemon.
const holdEnv = "WSLMIRROR_HOLD"

// serveHold is "hold": it holds ports that have no socket, in the foreground.
func serveHold(args []string, stdout io.Writer, notifier *systemd.Notifier) (int, error) {
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	dir := runtimeDir(flags)
	level := flags.String("log-level", "info", "")
	if err := parse(flags, args); err != nil {
		if code, err := usageExit(err, stdout); err == nil {
			return code, nil
		}
		return exitConfig, err
	}
	l, err := parseLevel(*level)
	if err != nil {
		return exitConfig, err
	}
	log := logrus.New()
	log.SetLevel(l)
	systemd.LogToJournal(log)
	on := true
	if value := os.Getenv(holdEnv); value != "" {
		if on, err = strconv.ParseBool(value); err != nil {
			return exitConfig, usageError("%s: %q is neither true nor false", holdEnv, value)
		}
	}
	if !on {
		log.Info("holding ports is off (" + holdEnv + "=false)")
		return exitOK, notifier.Status("Off: "+holdEnv+" is false", true)
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	own := status.HoldDir(*dir)
	err = os.MkdirAll(own, 0o755)
	if err == nil {
		err = unix.Access(own, unix.W_OK)
	}
	if errors.Is(err, fs.ErrPermission) {
		err := fmt.Errorf("no permission to write in %s", own)
		return exitFailure, hinted{err, "start the service (sudo systemctl start wslmirror-hold), or run it with sudo"}
	}
	h := hold.New(hold.Config{
		Dir: *dir, Log: log, Store: notifier.Store, Forget: notifier.Forget,
		Publish: func(s status.Hold) error {
			err := os.MkdirAll(own, 0o755)
			if err == nil {
				err = status.WriteHold(own, s)
			}
			if err = errors.Join(err, notifier.Status(holdSentence(s), true)); err != nil {
				log.WithError(err).Warn("could not publish the held ports")
			}
			return err
		},
	}, systemd.Stored())
	log.Info("wslmirror hold is starting: version " + version)
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the process at once
		notifier.Stopping()
	})
	if err := h.Run(ctx); err != nil {
		return exitFailure, err
	}
	if err := status.RemoveHold(own); err != nil {
		log.WithError(err).Warn("could not remove the state")
	}
	return exitOK, nil
}

// holdSentence is the status line in systemctl status.
func holdSentence(s status.Hold) string {
	sentence := "Holding " + plural(uint64(len(s.Held)), "port") + " for Windows"
	if n := len(s.Refused); n > 0 {
		sentence += fmt.Sprintf(", %d could not be held", n)
	}
	return sentence
}
