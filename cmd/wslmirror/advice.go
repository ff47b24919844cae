package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/systemd"
)

// surroundings is what an ordinary user can see of the system.
type surroundings struct {
	wsl bool
	// mode is WSL's networking mode as wslinfo prints it, "" if it is unknown. It is used
	// where there is no loopback0; otherwise the kernel shows the mode, and wslinfo may be wrong.
	mode string
	// link says that the daemon's interface exists, wslLink that loopback0 does. The two
	// differ if --interface names another link.
	link, wslLink bool
	// systemd says that systemd is the init of this distribution.
	systemd bool
	// elsewhere says that wslmirror is not running here, but in another distribution.
	elsewhere bool
	// older says that the daemon is so old that it publishes no schema number.
	older bool
	// now is the current time, zero if ages should not be shown.
	now time.Time
	// unit is systemd's state of the service, if no daemon runs. tooOld says why the
	// kernel is too old for one.
	unit   systemd.UnitState
	tooOld string
}

// lookAround fills h for the state s. It may run wslinfo, which calls Windows through
// WSL's interop, so the daemon must never call it.
func (h *surroundings) lookAround(s status.Snapshot) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	guest := windows.LookAtGuest(ctx)
	h.wsl, h.mode, h.now = guest.WSL, guest.Mode, time.Now()
	link, _ := kernelMode(s.Interface.Name)
	h.link, h.wslLink = link.Present(), link.Present()
	if link.Name != status.DefaultInterface {
		wsl, _ := kernelMode(status.DefaultInterface)
		h.wslLink = wsl.Present()
	}
	h.systemd = systemd.Booted()
}

// kernelMode is the link of that name, and WSL's networking mode as the kernel shows
// it, "" if that could not be read.
func kernelMode(name string) (netwatch.Link, netwatch.Mode) {
	none := netwatch.Link{Name: name}
	conn, err := netwatch.Open()
	if err != nil {
		return none, ""
	}
	defer conn.Close()
	links, err := conn.Links()
	if err != nil {
		return none, ""
	}
	link := netwatch.Find(links, name)
	mode, err := conn.Mode(link)
	if err != nil {
		return link, ""
	}
	return link, mode
}

const (
	adviceNotWSL = `  This is not WSL: there is nothing for wslmirror to repair.
`
	adviceNAT = `  The networking mode is nat, in which Windows forwards localhost itself: there is
  nothing for wslmirror to repair. For a mode with a shared localhost, add this to
  %UserProfile%\.wslconfig in Windows, and then run 'wsl --shutdown' there:
      [wsl2]
      networkingMode=mirrored
`
	adviceNone = `  The networking mode is none: Linux has no network. If you did not choose that,
  WSL failed to set up the mode that you chose. It shows the error when it
  starts. Run 'wsl --shutdown' in Windows and start WSL again. If that does not
  help, run 'wsl --update' and restart Windows.
`
	adviceOther = `  The networking mode is %MODE%, in which there is nothing for wslmirror to
  repair. For a mode with a shared localhost, add this to %UserProfile%\.wslconfig
  in Windows, and then run 'wsl --shutdown' there:
      [wsl2]
      networkingMode=mirrored
`
	adviceMissing = `  The networking mode is mirrored, but there is no loopback0: WSL's network is not
  up. If it does not appear, run 'wsl --shutdown' in Windows and start WSL again.
`
	adviceNotShared = `  The networking mode is %MODE%, but there is no loopback0: localhost is not
  shared, so there is nothing for wslmirror to do. The cause may be
  localhostForwarding=false in the section [wsl2] of %UserProfile%\.wslconfig in
  Windows. Otherwise run 'wsl --shutdown' there and start WSL again.
`
	adviceInterface = `  The daemon waits for %LINK%, but WSL's link is loopback0, which exists. Correct
  --interface in /etc/default/wslmirror, and then:
      sudo systemctl restart wslmirror
`
	adviceStart = `  Windows and Linux share localhost here (networking mode %MODE%), so a port
  that a container publishes may not answer on localhost in Windows. To start
  wslmirror, now and at every boot:
      sudo systemctl enable --now wslmirror
`
	adviceStartByHand = `  Windows and Linux share localhost here (networking mode %MODE%), so a port
  that a container publishes may not answer on localhost in Windows. This
  distribution runs without systemd. Either turn it on, in /etc/wsl.conf, and then
  run 'wsl --shutdown' in Windows:
      [boot]
      systemd=true
  or start wslmirror by hand:
      sudo wslmirror run
`
	adviceStandby = `  Nothing to do: all distributions of the VM share one network, and wslmirror is
  active in another one. If it stops there, this one takes over at once.
`
	adviceServed = `  Nothing to do: all distributions of the VM share one network, and wslmirror is
  active in another one. To let this distribution take over when it stops there:
      sudo systemctl enable --now wslmirror
`
	adviceError = `  See the log, and restart the service:
      wslmirror log --since 1h
      sudo systemctl restart wslmirror
`
	adviceOptions = `  The options of the service are wrong, so systemd does not restart it. Correct
  WSLMIRROR_OPTS in /etc/default/wslmirror, and then:
      sudo systemctl restart wslmirror
`
	adviceDegraded = `  Some features are off, because %REASONS%. Load the modules, and then run
  'wslmirror status', which makes wslmirror check again:
`
	adviceKernel = `  wslmirror does not run on this kernel. To install a newer one:
      wsl.exe --update
      wsl.exe --shutdown
`
	adviceOlder = `  The daemon is older than this program, which does not understand all of its
  state. To run the new version:
      sudo systemctl restart wslmirror
`
	adviceElsewhere = `  The daemon sees %LINK%, but this command does not: it runs in another network
  namespace than the daemon.
`
)

// advice says what to do, "" if there is nothing to say.
func advice(s status.Snapshot, here surroundings) string {
	switch {
	case here.older:
		return adviceOlder
	case s.State == status.Active && !here.link:
		return strings.ReplaceAll(adviceElsewhere, "%LINK%", text.Line(s.Interface.Name))
	case s.State == status.Active && len(s.Degraded) > 0:
		return degradedAdvice(s.Degraded)
	case s.State == status.Active:
		return ""
	case s.State == status.Error:
		return adviceError
	case s.State == status.Standby:
		return adviceStandby
	case s.State == status.Stopped && here.tooOld != "":
		return adviceKernel
	case s.State == status.Stopped && badOptions(here.unit):
		return adviceOptions
	case s.State == status.Stopped && trouble(here.unit) != "":
		return adviceError
	case s.State == status.Stopped && here.elsewhere:
		return adviceServed
	case s.State == status.Waiting && !here.link && here.wslLink:
		return strings.ReplaceAll(adviceInterface, "%LINK%", text.Line(s.Interface.Name))
	case !here.wsl && !here.link:
		return adviceNotWSL
	case here.link && s.State == status.Waiting:
		return "" // it has just appeared
	case here.link && here.systemd:
		return strings.ReplaceAll(adviceStart, "%MODE%", text.Line(netwatch.Mode(s.Mode).String()))
	case here.link:
		return strings.ReplaceAll(adviceStartByHand, "%MODE%", text.Line(netwatch.Mode(s.Mode).String()))
	case here.mode == "mirrored":
		return adviceMissing
	case here.mode == "consomme" || here.mode == "virtioproxy":
		return strings.ReplaceAll(adviceNotShared, "%MODE%", here.mode)
	case here.mode == "nat":
		return adviceNAT
	case here.mode == "none":
		return adviceNone
	case here.mode == "":
		return strings.ReplaceAll(adviceOther, "%MODE%", "probably none that shares localhost")
	}
	return strings.ReplaceAll(adviceOther, "%MODE%", text.Line(here.mode))
}

// degradedAdvice says what the kernel lacks, and how to get it.
func degradedAdvice(lacks []status.Lack) string {
	var reasons, commands []string
	for _, l := range lacks {
		if reason := text.Line(l.Reason); !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
		for _, line := range l.Fix {
			if line = "      " + text.Line(line) + "\n"; !slices.Contains(commands, line) {
				commands = append(commands, line)
			}
		}
	}
	return strings.Replace(adviceDegraded, "%REASONS%", strings.Join(reasons, "; "), 1) + strings.Join(commands, "")
}
