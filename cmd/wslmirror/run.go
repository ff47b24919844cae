package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/confine"
	"github.com/wslmirror/wslmirror/internal/mirror"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
	"github.com/wslmirror/wslmirror/systemd"
)

// runOptions are the flags of run.
type runOptions struct {
	iface, path, dir  string
	user              string // "" if it is not given
	repair            bool
	toWindows, except ruleset.Ports
	level             logrus.Level
}

// String is for the log.
func (o runOptions) String() string {
	list := fmt.Sprintf("version %s, interface %s, path %s, repair %t", version, o.iface, o.path, o.repair)
	if !o.toWindows.Empty() {
		list += ", to Windows " + o.toWindows.String()
	}
	if !o.except.Empty() {
		list += ", except " + o.except.String()
	}
	return list + ", log level " + o.level.String()
}

func parseRun(args []string) (o runOptions, err error) {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.StringVar(&o.iface, "interface", status.DefaultInterface, "")
	flags.StringVar(&o.path, "path", status.PathProxy, "")
	flags.BoolVar(&o.repair, "repair", true, "")
	toWindows := flags.String("to-windows", "", "")
	except := flags.String("except", "", "")
	flags.StringVar(&o.user, "user", "", "")
	dir := runtimeDir(flags)
	level := flags.String("log-level", "info", "")
	if err := parse(flags, args); err != nil {
		return o, err
	}
	o.dir = *dir
	if err := netwatch.CheckLinkName(o.iface); err != nil {
		return o, usageError("--interface: %w", err)
	}
	if o.path != status.PathProxy && o.path != status.PathDirect {
		return o, usageError("--path: %q is neither proxy nor direct", o.path)
	}
	if *toWindows == "all" {
		return o, usageError("--to-windows: 'all' is not possible, because the kernel does not report when a program in Linux starts to listen; list the ports")
	}
	if o.toWindows, err = parsePorts(*toWindows, unix.IPPROTO_TCP); err != nil {
		return o, usageError("--to-windows: %w", err)
	}
	if o.except, err = parsePorts(*except, unix.IPPROTO_TCP, unix.IPPROTO_UDP); err != nil {
		return o, usageError("--except: %w", err)
	}
	if both := o.toWindows.Intersect(o.except); !both.Empty() {
		return o, usageError("--to-windows and --except both name %s", both)
	}
	if o.user != "" {
		if _, err := confine.Lookup(o.user); err != nil {
			return o, usageError("--user: %w", err)
		}
	}
	o.level, err = parseLevel(*level)
	return o, err
}

// mostPorts is how many ports an option can list: in each pass, the daemon asks the
// kernel about each of them at each address.
const mostPorts = 64

// parsePorts reads ports like "8080,53/udp". A port without a protocol stands for one of
// each of protocols.
func parsePorts(list string, protocols ...uint8) (ruleset.Ports, error) {
	if list == "" {
		return nil, nil
	}
	names := strings.Split(list, ",")
	if len(names) > mostPorts {
		return nil, fmt.Errorf("the list has more than %d ports", mostPorts)
	}
	var ports []ruleset.Port
	for _, name := range names {
		number, proto, named := strings.Cut(strings.TrimSpace(name), "/")
		of := protocols
		if named {
			of = map[string][]uint8{"tcp": {unix.IPPROTO_TCP}, "udp": {unix.IPPROTO_UDP}}[proto]
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || of == nil {
			return nil, fmt.Errorf("%q is not a port like 8080 or 53/udp", name)
		}
		for _, proto := range of {
			ports = append(ports, ruleset.Port{Proto: proto, Number: uint16(n)})
		}
	}
	return ruleset.PortSet(ports...), nil
}

// service is the verb of a service. If it fails, it tells systemd why.
func service(serve func(args []string, stdout io.Writer, notifier *systemd.Notifier) (int, error)) func([]string, io.Writer) (int, error) {
	return func(args []string, stdout io.Writer) (int, error) {
		notifier := systemd.NewNotifier()
		code, err := serve(args, stdout, notifier)
		if err != nil {
			err = errors.Join(err, notifier.Failed(oneLine(err)))
		}
		return code, err
	}
}

// parseLevel parses the flag --log-level.
func parseLevel(s string) (logrus.Level, error) {
	level, err := logrus.ParseLevel(s)
	if err != nil {
		return 0, usageError("--log-level: %q is not one of error, warning, info, debug", s)
	}
	return level, nil
}

func serve(args []string, stdout io.Writer, notifier *systemd.Notifier) (int, error) {
	o, err := parseRun(args)
	if errors.Is(err, flag.ErrHelp) {
		if !systemd.Managed() {
			return usageExit(err, stdout)
		}
		err = usageError("a service cannot use --help") // exit 0 would restart it
	}
	if err != nil {
		return exitConfig, err
	}
	log := logrus.New()
	log.SetLevel(o.level)
	systemd.LogToJournal(log)

	if err := nft.Check(); err != nil {
		var h hinted
		if err = explain(err); errors.As(err, &h) {
			return exitFailure, err
		}
		// The error may be temporary. If it is not, the loop logs it and retries.
		log.WithError(err).Warn("could not check whether this kernel is suitable")
	}
	if err := giveUpRights(o); err != nil {
		return exitFailure, err
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	pub := &publisher{dir: o.dir, log: log, notifier: notifier}
	var d *mirror.Daemon
	pub.serve = func() error { return status.Serve(ctx, o.dir, d.Refresh) }
	d = mirror.New(mirror.Config{
		Interface:  o.iface,
		Policy:     mirror.Policy{Repair: o.repair, Direct: o.path == status.PathDirect, ToWindows: o.toWindows, Except: o.except},
		Log:        log,
		Publish:    pub.publish,
		Alive:      func() { pub.complain("notify systemd", notifier.Alive()) },
		AliveEvery: systemd.AliveEvery(),
	})
	log.WithFields(logrus.Fields{"version": version, "interface": o.iface, "path": o.path}).Info("wslmirror is starting: " + o.String())
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the process at once
		notifier.Stopping()
	})
	err = d.Run(ctx)
	pub.close()
	if err != nil {
		return exitFailure, fmt.Errorf("undo: %w", err)
	}
	log.Info("wslmirror has stopped and removed everything that it added")
	return exitOK, nil
}

// giveUpRights executes the program again as an ordinary user, if it runs as root and
// systemd has not dropped the rights. It returns if that is not needed, or if it fails.
func giveUpRights(o runOptions) error {
	if o.user == "" && (os.Geteuid() != 0 || systemd.Managed()) {
		return nil
	}
	u, err := confine.Lookup(cmp.Or(o.user, confine.Nobody))
	switch {
	case err != nil:
		return err
	case u.UID == os.Geteuid():
		return nil
	case os.Geteuid() != 0:
		return hinted{errors.New("--user: only root can become another user"), "run it with sudo"}
	}
	dir, err := filepath.Abs(o.dir)
	if err == nil {
		// Its working directory will be another.
		err = confine.Exec(u, dir, append(slices.Clone(os.Args), "--runtime-dir", dir))
	}
	hint := "--user root keeps root's rights"
	if errors.Is(err, confine.ErrNotYours) {
		hint = "stop the other wslmirror or remove the directory, or choose another one with --runtime-dir"
	}
	return hinted{fmt.Errorf("drop root's rights: %w", err), hint}
}

// explain adds a hint to an error of nft.Check.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return hinted{errors.New("bind() does not work: WSL's port tracker has ended"), "run 'wsl.exe --shutdown' and start WSL again"}
	case errors.Is(err, nft.ErrPermission):
		return hinted{err, "start the service (sudo systemctl start wslmirror), or run it with sudo"}
	case errors.Is(err, nft.ErrNoNFTables), errors.Is(err, nft.ErrNoOwner):
		hint := "update the kernel: 'wsl --update' in Windows; this one is Linux " + windows.KernelRelease()
		if errors.Is(err, nft.ErrNoNFTables) {
			hint = "run 'sudo modprobe nf_tables'; if that fails, " + hint
		}
		return hinted{err, hint}
	}
	return err
}

// tooOld says why this kernel is too old for a daemon, "" if it is not.
func tooOld() string {
	if err := nft.TooOld(windows.KernelRelease()); err != nil {
		return err.Error() + "; this one is Linux " + windows.KernelRelease()
	}
	return ""
}

// A publisher publishes the daemon's state: to systemd, and to users through the
// files in the runtime directory.
type publisher struct {
	dir      string
	serve    func() error // creates the socket in dir
	serves   bool         // whether the socket exists
	log      logrus.FieldLogger
	notifier *systemd.Notifier
	troubles map[string]string // the last complaint about each thing
}

// publish returns an error if s was not published, or not everywhere. The
// daemon continues, and retries.
func (p *publisher) publish(s status.Snapshot) error {
	s.Version, s.PID = version, os.Getpid()
	err := p.open()
	if err == nil {
		err = status.Write(p.dir, s)
	}
	p.complain("publish the state for 'wslmirror status'", err)
	// A service that has never worked is not ready.
	sentence := s.Sentence()
	if s.State == status.Error {
		sentence = s.String()
	}
	notifyErr := p.notifier.Status(sentence, s.State != status.Error)
	p.complain("notify systemd", notifyErr)
	return errors.Join(err, notifyErr)
}

// open prepares the runtime directory.
func (p *publisher) open() error {
	if p.serves {
		return nil
	}
	err := os.MkdirAll(p.dir, 0o755)
	if err == nil {
		err = p.serve()
	}
	p.serves = err == nil
	return err
}

func (p *publisher) close() {
	if p.serves {
		p.complain("remove the state", status.Remove(p.dir))
	}
}

// complain logs err once, however often it repeats.
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

// cleanup removes what a crashed daemon leaves.
func cleanup(args []string, stdout io.Writer) (int, error) {
	if err := parse(flag.NewFlagSet("cleanup", flag.ContinueOnError), args); err != nil {
		return usageExit(err, stdout)
	}
	err := mirror.Cleanup()
	if err != nil {
		// The error comes from the first failed step, and may hide its errno.
		if errors.Is(nft.Check(), nft.ErrPermission) {
			err = hinted{nft.ErrPermission, "run it with sudo"}
		}
		return exitFailure, err
	}
	return exitOK, nil
}
