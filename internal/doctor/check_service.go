package doctor

import (
	"fmt"
	"strings"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
)

// start are the commands that start the daemon.
func (o *Observation) start() []string {
	switch s := o.Service.Value; {
	case s.BadOptions:
		return []string{"# correct WSLMIRROR_OPTS in /etc/default/wslmirror, and then", "sudo systemctl restart wslmirror"}
	case s.Trouble != "":
		return []string{"journalctl -u wslmirror -e", "sudo systemctl restart wslmirror"}
	}
	if o.Systemd {
		return []string{"sudo systemctl enable --now wslmirror"}
	}
	return []string{"sudo wslmirror run   # or turn systemd on: [boot] systemd=true in /etc/wsl.conf"}
}

// tooOld says why the kernel is too old for a daemon, nil if it is not.
func (o *Observation) tooOld() error { return nft.TooOld(o.Guest.Release) }

// checkKernel judges whether the kernel supports what wslmirror needs. The daemon
// finds out what is missing.
func checkKernel(o *Observation) Check {
	if err := o.tooOld(); err != nil {
		return fault("%v; this one is Linux %s", err, o.Guest.Release).
			because("wslmirror does not run on this kernel.", "").
			do("wsl.exe --update   # or choose a newer one, if .wslconfig sets kernel=", restart)
	}
	if o.Status.Err != nil || o.Status.Value.State != status.Active {
		return ok("Linux %s is new enough", o.Guest.Release)
	}
	var lacks, reasons, commands []string
	for _, l := range o.Status.Value.Degraded {
		lacks, reasons = append(lacks, l.Feature), add(reasons, l.Reason)
		for _, line := range l.Fix {
			commands = add(commands, line)
		}
	}
	if len(lacks) > 0 {
		return warning("it does not support: %s", strings.Join(lacks, ", ")).
			because(strings.Join(reasons, "; ")+". wslmirror works without these features.", "").do(commands...)
	}
	return ok("Linux %s supports everything that wslmirror uses", o.Guest.Release)
}

func checkService(o *Observation) Check {
	if o.Status.Err != nil {
		return unseen("the state of the daemon", o.Status.Err).do("journalctl -u wslmirror -e")
	}
	s := o.Status.Value
	switch s.State {
	case status.Active:
		return ok("active, version %s, path %s, published ports: %d", s.Version, s.Path, len(s.Ports))
	case status.Standby:
		return ok("standby: wslmirror is active in another distribution")
	case status.Waiting:
		switch {
		case o.link().Present() && s.Interface.Name == o.Iface:
			return warning("it waits for %s, which exists", o.Iface).do("sudo systemctl restart wslmirror")
		case o.link().Present():
			return fault("it waits for %s; WSL's link is %s", s.Interface.Name, o.Iface).
				because("So it does nothing. The name comes from --interface.", "").
				do("# correct --interface in /etc/default/wslmirror, and then", "sudo systemctl restart wslmirror")
		}
		return ok("waiting for %s", s.Interface.Name)
	case status.Error:
		return fault("it fails: %s", s.Reason).
			because("Until it works, published ports of containers may not answer on localhost.", "").
			do("journalctl -u wslmirror -e", "sudo systemctl restart wslmirror")
	}
	if o.tooOld() != nil {
		return notApplicable("wslmirror cannot run on this kernel")
	}
	if trouble := o.Service.Value.Trouble; trouble != "" {
		if o.active() {
			return warning("%s; wslmirror is active in another distribution", trouble).
				because("All distributions share one network. If the other wslmirror stops, this one does not take over.", "").do(o.start()...)
		}
		return fault("%s", trouble).
			because("Until it runs, a port that a container publishes may not answer on localhost in Windows.", "").do(o.start()...)
	}
	if o.active() {
		return ok("not running here, but active in another distribution: all share one network")
	}
	c := fault("wslmirror is not running")
	if o.idle() {
		c = warning("wslmirror is not running, but no container publishes a port yet")
	}
	return c.because("Without it, a port that a container publishes may not answer on localhost in Windows.", "microsoft/WSL#10494").
		do(o.start()...)
}

// idle reports whether there is certainly no engine and no published port.
func (o *Observation) idle() bool {
	published, err := o.published()
	return o.Programs.Err == nil && !o.runs("dockerd") && !o.Podman.Present &&
		err == nil && len(published) == 0
}

func checkTable(o *Observation) Check {
	name := nft.TableFamily + " " + nft.TableName
	if o.Ruleset.Err != nil {
		if o.Status.Err == nil && o.Status.Value.Table.Installed {
			return ok("table %s, according to the daemon", name)
		}
		return unseen("the table", o.Ruleset.Err)
	}
	state := o.Ruleset.Value.Ours
	switch {
	case state.Present && state.Owner == 0:
		return fault("there is a table %s that no daemon owns", name).
			because("It may have been loaded from a file. No daemon keeps its rules up to date.", "").
			do(append([]string{"sudo nft delete table " + name}, o.start()...)...)
	case state.Present:
		return ok("table %s, owned by a daemon", name)
	case o.Status.Err == nil && o.Status.Value.State == status.Active:
		return fault("the daemon says that it is active, but there is no table %s", name).
			because("It runs in another network namespace, or the kernel has lost the table.", "").
			do("sudo systemctl restart wslmirror")
	}
	var left []string
	for _, r := range o.Net.Value.Rules {
		if r.Protocol == ruleProtocol {
			left = append(left, fmt.Sprintf("ip rule %q", r))
		}
	}
	for _, r := range o.Ruleset.Value.Present {
		left = append(left, "a rule for "+r.String())
	}
	if o.Status.Err == nil && o.Status.Value.State == status.Error {
		return notApplicable("a daemon is running, but could not install table %s", name)
	}
	if len(left) > 0 && !o.active() {
		return warning("no daemon is running, but one has left behind: %s", strings.Join(left, ", ")).do("sudo wslmirror cleanup")
	}
	return notApplicable("no daemon is active")
}

// ruleProtocol marks the ip rules of wslmirror (internal/mirror/replyrule.go).
const ruleProtocol = 'W'

func checkInstances(o *Observation) Check {
	if o.Programs.Err != nil {
		return unseen("the processes", o.Programs.Err)
	}
	var here []Program
	sure := 0
	for _, p := range o.Programs.Value {
		if p.isDaemon() {
			here = append(here, p)
			if p.Sure {
				sure++
			}
		}
	}
	// Those that are not Sure may be in a container. Then this network has only
	// one.
	if len(here) > 1 && (sure > 1 || o.Daemons.Value > 1) {
		c := fault("%d wslmirrors run in this distribution", len(here)).
			because("One is active and the others stand by, each with its own settings: if the active one restarts, the settings of another apply.", "")
		keep := here[0].PID
		for _, p := range here {
			if o.Status.Err == nil && p.PID == o.Status.Value.PID {
				keep = p.PID // the one that publishes in the usual directory
			}
		}
		for _, p := range here {
			if p.Service {
				keep = p.PID // systemd would start it again (Restart=always)
			}
		}
		for _, p := range here {
			if p.PID != keep {
				// Without its arguments: any user can start a program with any arguments.
				c = c.do(fmt.Sprintf("sudo kill %d", p.PID))
			}
		}
		return c
	}
	switch others := o.Daemons.Value - len(here); {
	case o.Daemons.Err != nil:
		return unseen("the daemons of other distributions", o.Daemons.Err)
	case others > 0:
		return ok("%d here, %d in other distributions: one is active, the others stand by", len(here), others)
	case len(here) == 0:
		return notApplicable("wslmirror is not running in this distribution")
	}
	return ok("one")
}

// isDaemon reports whether the program is "wslmirror run".
func (p Program) isDaemon() bool {
	return strings.HasPrefix(p.Name, "wslmirror") && len(p.Args) > 1 && p.Args[1] == "run"
}

func checkCounters(o *Observation) Check {
	switch {
	case o.Status.Err != nil:
		return unseen("the daemon's counters", o.Status.Err)
	case o.Status.Value.State != status.Active:
		return notApplicable("the daemon is not active here")
	}
	return ok("connections from Windows: %d, since %s", o.Status.Value.Rule.Packets, o.Status.Value.Since.Local().Format("2006-01-02 15:04:05"))
}
