package field

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
)

// lasts is after how many seconds what was started in containers and in Windows ends by
// itself. A run takes two minutes at most, if nothing hangs.
const lasts = 600

// cleanTimeout bounds putting all back.
var cleanTimeout = lab.Scaled(2 * time.Minute)

// A Look is what there is on this machine, before anything is started.
type Look struct {
	Guest   windows.Guest
	Mode    netwatch.Mode
	Service bool // systemd runs wslmirror
	Engines []Engine
	// Windows says why a program of Windows cannot be run, by its name; "" if it can.
	Windows map[string]string
	WSL     string // the versions, "" if they are not known
	Build   string // of Windows
}

// LookAround looks, and changes nothing. It returns an error where there is nothing to
// compare with the bench.
func LookAround(ctx context.Context) (*Look, error) {
	l := &Look{Guest: windows.LookAtGuest(ctx), Windows: map[string]string{}}
	if !l.Guest.WSL {
		return nil, errors.New("this is not WSL")
	}
	c, err := netwatch.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err == nil {
		l.Mode, err = c.Mode(netwatch.Find(links, loopback0))
	}
	if err != nil {
		return nil, err
	}
	if !l.Mode.Shares() {
		return nil, fmt.Errorf("there is no %s: the networking mode is none of mirrored and consomme", loopback0)
	}
	l.Service = serviceRuns(ctx)
	for _, name := range engineNames {
		if e, found := findEngine(ctx, name); found {
			l.Engines = append(l.Engines, e)
		}
	}
	for program, args := range map[string][]string{curl: {"--version"}, powershell: encoded("exit 0")} {
		l.Windows[program] = ""
		if _, _, err := windows.Run(ctx, powershellTimeout, program, args...); err != nil {
			l.Windows[program] = err.Error()
		}
	}
	l.WSL, _ = windows.Version(ctx)
	if out, _, err := windows.Run(ctx, windows.Timeout, "cmd.exe", "/c", "ver"); err == nil {
		l.Build = build.FindString(string(out))
	}
	return l, ctx.Err()
}

// build is a version of Windows: the words around it are in its language.
var build = regexp.MustCompile(`\d+\.\d+\.\d+(\.\d+)?`)

// Options of a run.
type Options struct {
	Wslmirror string // the program
	// Step does a step, of which what says what it does.
	Step func(what string, do func() error) error
}

// A run is at work.
type run struct {
	Options
	*Look
	linux  *lab.Host
	free   *finder
	site   Site
	hosts  map[Client]*lab.Host
	seen   *doctor.Observation
	report *Report

	undo []func(context.Context) error // in reverse
}

// A LeftError says what could not be put back.
type LeftError struct{ error }

// Run asks everything, puts everything back and returns what came of it. If ctx is done
// before the end, it puts everything back and returns the error of ctx. If it cannot put
// everything back, it returns a LeftError, with the report if there is one.
func (l *Look) Run(ctx context.Context, opts Options) (report *Report, err error) {
	r := &run{Options: opts, Look: l, hosts: map[Client]*lab.Host{}, report: newReport(l)}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		e := r.Step("put everything back", func() (err error) {
			for _, undo := range slices.Backward(r.undo) {
				err = errors.Join(err, undo(ctx))
			}
			return err
		})
		if e != nil {
			e = LeftError{fmt.Errorf("not everything could be put back: %w", e)}
		}
		err = errors.Join(err, e)
	}()
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"stop the service wslmirror", r.stopService},
		{"start servers in Linux and in Windows", r.serve},
		{"start containers", r.startContainers},
		{"compare what WSL has set up", r.look},
		{"send requests without wslmirror", func(ctx context.Context) error { return r.ask(ctx, without) }},
		{"ask Windows about held ports", r.askHeld},
		{"start wslmirror", r.startDaemon},
		{"send requests with wslmirror", func(ctx context.Context) error { return r.ask(ctx, with) }},
	} {
		if s.do == nil {
			continue
		}
		if err := r.Step(s.what, func() error { return errors.Join(s.do(ctx), ctx.Err()) }); err != nil {
			return nil, err
		}
	}
	return r.report, nil
}

func (r *run) windows() interop { return interop{r.Windows[curl], r.Windows[powershell]} }

// later has undo run at the end.
func (r *run) later(undo func(context.Context) error) { r.undo = append(r.undo, undo) }

func (r *run) stopService(ctx context.Context) error {
	if !r.Service {
		return nil
	}
	r.later(func(ctx context.Context) error { return systemctl(ctx, "start", serviceName) })
	return systemctl(ctx, "stop", serviceName)
}

// serve starts the servers without a container.
func (r *run) serve(ctx context.Context) (err error) {
	if r.linux, err = lab.Here(string(Linux)); err != nil {
		return err
	}
	r.later(func(context.Context) error { return r.linux.Close() })
	r.hosts[Linux] = r.linux
	r.site.Mode = r.Mode
	r.free = &finder{linux: r.linux}
	if r.site.Closed, err = r.free.quiet(); err != nil {
		return err
	}
	if r.site.Linux, err = r.free.bindable(); err != nil {
		return err
	}
	everywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), r.site.Linux).String()
	for _, proto := range []string{"tcp", "udp"} {
		if _, err := r.linux.ServeEcho(proto, everywhere); err != nil {
			return err
		}
		await(ctx, r.linux, proto, at(r.site.Linux))
	}
	s, err := r.windows().serve(ctx, lasts)
	if err != nil {
		r.report.note("servers of Windows", err)
		return nil
	}
	r.later(func(ctx context.Context) error {
		s.close(ctx, r.linux)
		return nil
	})
	r.site.Named, r.site.Hidden = s.named, s.hidden
	return nil
}

func (r *run) startContainers(ctx context.Context) error {
	for _, e := range r.Engines {
		if e.NotChecked == "" {
			began := e // what start notes in it
			r.later(func(ctx context.Context) error { return began.remove(ctx) })
			err := began.start(ctx, r.free, lasts)
			e.Containers = began.Containers
			for _, c := range e.Containers {
				if err == nil {
					err = r.enter(ctx, e.Name, c)
				}
			}
			if err != nil {
				e.NotChecked, e.Containers = err.Error(), nil
			}
		}
		if e.NotChecked != "" {
			r.report.note("containers of "+e.Name, errors.New(e.NotChecked))
		}
		r.site.Engines = append(r.site.Engines, e)
	}
	r.report.Engines = r.site.Engines
	if len(r.Engines) == 0 {
		r.report.note("containers", errors.New("there is neither docker nor podman"))
	}
	return nil
}

// enter makes the container that is published everywhere a client, and waits until it serves.
func (r *run) enter(ctx context.Context, engine string, c Container) error {
	h, err := lab.HostOf(c.Name, c.pid)
	if err != nil {
		return err
	}
	r.later(func(context.Context) error { return h.Close() })
	if c.On.IsUnspecified() {
		r.hosts[containerOf(engine)] = h
	}
	for deadline := time.Now().Add(daemonTimeout); ; time.Sleep(20 * time.Millisecond) {
		_, err := h.Ask("tcp", "127.0.0.1:80", patience)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the container does not serve: %w", err)
		}
	}
}

// look reads what WSL has set up and what the engines have written.
func (r *run) look(ctx context.Context) error {
	checked := doctor.Run(ctx, doctor.Config{
		Iface: loopback0, Root: "/", Status: func() (status.Snapshot, error) { return status.Snapshot{}, os.ErrNotExist },
	})
	r.seen = checked.Seen
	rules := r.seen.Ruleset.Value
	if r.seen.Ruleset.Err == nil && rules.Ours.Owner != 0 {
		return errors.New("another wslmirror runs, perhaps in another distribution: stop it first")
	}
	r.report.Setup = compareSetup(r.seen)
	if b := r.seen.Block; b.Err == nil {
		r.report.SourcePorts = fmt.Sprintf("%d-%d", b.Value.First, b.Value.Last)
	}
	r.site.Published, r.site.Passes = rules.Published, rules.Passes
	r.site.LAN = lanAddress(r.seen)
	if !r.site.LAN.IsValid() {
		r.report.note("the own address of the LAN", errors.New("there is none on a mirrored link"))
	}
	r.report.ask(r.site.plan())
	return nil
}

// lanAddress is the address of the mirrored link by which the default route leads.
func lanAddress(o *doctor.Observation) (addr netip.Addr) {
	n := o.Net.Value
	for _, nic := range nicsOf(o) {
		l := netwatch.Find(n.Links, nic)
		for _, p := range n.Prefixes[l.Index] {
			isDefault := slices.ContainsFunc(n.Routes, func(r netwatch.Route) bool { return r.Link == l.Index && r.To.Bits() == 0 })
			if p.Addr().IsGlobalUnicast() && (!addr.IsValid() || isDefault) {
				addr = p.Addr()
			}
		}
	}
	return addr
}

func (r *run) ask(ctx context.Context, column int) error {
	list := r.report.questions
	got := askAll(ctx, list, column, r.hosts, r.windows())
	r.report.answer(column, got)
	r.report.measured(column, measureAll(ctx, list, got, r.hosts))
	return nil
}

func (r *run) askHeld(ctx context.Context) (err error) {
	r.report.Held, err = askHeld(ctx, r.windows(), r.linux, r.Mode, r.site.Linux, r.free)
	if err != nil {
		r.report.note("held ports", err)
	}
	return nil
}

func (r *run) startDaemon(ctx context.Context) error {
	dir, err := runtimeDir()
	if err != nil {
		return err
	}
	r.later(func(context.Context) error { return os.RemoveAll(dir) })
	var args []string
	if p := r.site.Named; p.tcp != 0 {
		args = append(args, "--to-windows", fmt.Sprintf("%d,%d/udp", p.tcp, p.udp))
	}
	d, err := startDaemon(ctx, r.Wslmirror, dir, args...)
	if err != nil {
		return err
	}
	r.later(func(context.Context) error { return d.stop() })
	return nil
}

// Plan says what a run will do.
func (l *Look) Plan() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "- "+format+"\n", args...) }
	fmt.Fprintf(&b, "WSL's networking mode is %s. This takes about two minutes. It will:\n\n", l.Mode)
	if l.Service {
		line("stop the service wslmirror, and start it again at the end; meanwhile\n  published ports behave as without it")
	}
	line("start small servers in Linux, on free ports from 18080 to 19079")
	for _, e := range l.Engines {
		if e.NotChecked != "" {
			line("leave %s out: %s", e.Name, e.NotChecked)
			continue
		}
		line("start two containers with %s, from an image that holds this program only,\n  and remove both and the image at the end", e.Name)
	}
	if len(l.Engines) == 0 {
		line("ask nothing about containers: there is neither docker nor podman")
	}
	for _, p := range []struct{ name, does string }{
		{curl, "send requests from Windows with curl.exe"},
		{powershell, "run PowerShell in Windows: requests by UDP, four small servers on its\n  127.0.0.1, and attempts to bind ports"},
	} {
		if why := l.Windows[p.name]; why != "" {
			line("ask less from Windows: %s", why)
		} else {
			line("%s", p.does)
		}
	}
	line("send requests without wslmirror, then run wslmirror and send them again")
	line("read WSL's ip rules, routes, sysctls and nftables chains, and change none")
	b.WriteString("\nIt puts everything back, also on ^C. What runs in containers and in Windows ends\nby itself after ten minutes.\n")
	return b.String()
}
