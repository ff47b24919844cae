package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/mirror"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/systemd"
)

func runDaemon(args []string, stdout io.Writer) (int, error) {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	iface := flags.String("interface", defaultInterface, "")
	path := flags.String("path", "proxy", "")
	repair := flags.Bool("repair", true, "")
	dir := flags.String("runtime-dir", status.DefaultDir, "")
	level := flags.String("log-level", "info", "")
	if err := parse(flags, args); err != nil {
		return usageExit(err, stdout)
	}
	if err := netwatch.CheckLinkName(*iface); err != nil {
		return exitUsage, usageError("--interface: %w", err)
	}
	if *path != "proxy" {
		return exitUsage, usageError("--path: this version knows only the path proxy, not %q", *path)
	}
	lvl, err := logrus.ParseLevel(*level)
	if err != nil {
		return exitUsage, usageError("--log-level: %q is not one of error, warning, info, debug", *level)
	}

	log := logrus.New()
	log.SetLevel(lvl)
	systemd.LogToJournal(log)

	if err := nft.Check(); err != nil {
		return exitFailure, explain(err)
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	notifier := systemd.NewNotifier()
	pub := &publisher{dir: *dir, log: log, notifier: notifier}
	d := mirror.New(mirror.Config{
		Interface:  *iface,
		Repair:     *repair,
		Log:        log,
		Publish:    pub.publish,
		Alive:      func() { pub.complain("notify systemd", notifier.Alive()) },
		AliveEvery: systemd.AliveEvery(),
	})
	log.WithFields(logrus.Fields{"version": version, "interface": *iface}).Info("wslmirror is starting")
	pub.open(ctx, d.Refresh)
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the process at once
		notifier.Stopping()
	})
	err = d.Run(ctx)
	pub.close()
	if err != nil {
		return exitFailure, fmt.Errorf("undo: %w", err)
	}
	log.Info("wslmirror has stopped and left nothing behind")
	return exitOK, nil
}

// explain adds what the user can do about an error of nft.Check.
func explain(err error) error {
	switch {
	case errors.Is(err, nft.ErrPermission):
		return hinted{err, "start the service (sudo systemctl start wslmirror), or run it with sudo"}
	case errors.Is(err, nft.ErrNoNFTables), errors.Is(err, nft.ErrNoOwner):
		return hinted{err, "update the kernel: 'wsl --update' in Windows; this one is " + kernelRelease()}
	}
	return err
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

// A publisher tells the world how the daemon is: systemd, and the users by the
// files in the runtime directory.
type publisher struct {
	dir      string
	files    bool // whether dir can be used
	log      logrus.FieldLogger
	notifier *systemd.Notifier
	troubles map[string]string // what the last complaint about a thing was
}

// open prepares the runtime directory. The daemon works without one, so that a
// failure is a warning.
func (p *publisher) open(ctx context.Context, refresh func(context.Context)) {
	err := os.MkdirAll(p.dir, 0o755)
	if err == nil {
		err = status.Serve(ctx, p.dir, refresh)
	}
	p.files = err == nil
	if err != nil {
		p.log.WithError(err).WithField("dir", p.dir).Warn("cannot publish the state, 'wslmirror status' will not see this daemon")
	}
}

func (p *publisher) publish(s status.Snapshot) {
	s.Version, s.PID = version, os.Getpid()
	if p.files {
		p.complain("publish the state", status.Write(p.dir, s))
	}
	// A service that has never yet worked is not ready.
	p.complain("notify systemd", p.notifier.Status(s.Sentence(), s.State != status.Error))
}

func (p *publisher) close() {
	if p.files {
		p.complain("remove the state", status.Remove(p.dir))
	}
}

// complain logs err once, however often it comes.
func (p *publisher) complain(what string, err error) {
	if err == nil {
		delete(p.troubles, what)
		return
	}
	if p.troubles[what] == err.Error() {
		return
	}
	if p.troubles == nil {
		p.troubles = make(map[string]string)
	}
	p.troubles[what] = err.Error()
	p.log.WithError(err).Warn("could not " + what)
}

// cleanup removes what a crash can leave.
func cleanup(args []string, stdout io.Writer) (int, error) {
	if err := parse(flag.NewFlagSet("cleanup", flag.ContinueOnError), args); err != nil {
		return usageExit(err, stdout)
	}
	if err := mirror.Cleanup(); err != nil {
		if errors.Is(err, unix.EPERM) {
			return exitFailure, hinted{err, "run it with sudo"}
		}
		return exitFailure, err
	}
	return exitOK, nil
}
