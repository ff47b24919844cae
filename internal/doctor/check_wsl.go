package doctor

import (
	"fmt"
	"strings"
)

func checkWSL(o *Observation) Check {
	mode := "its networking mode is unknown"
	switch {
	case o.link().Present() && o.Net.Value.Mode != "": // whatever wslinfo says
		mode = "networking mode " + o.Net.Value.Mode.String()
	case o.Guest.ModeErr == nil:
		mode = "networking mode " + o.Guest.Mode
	}
	seen := fmt.Sprintf("kernel %s, %s", o.Guest.Release, mode)
	switch {
	case !o.Guest.WSL && o.link().Present():
		return unknown("kernel %s does not look like WSL's, but %s exists", o.Guest.Release, o.Iface).
			because("The service starts only if the kernel's name or wslinfo shows that this is WSL.", "")
	case !o.Guest.WSL:
		return notApplicable("this is not WSL (kernel %s, no wslinfo)", o.Guest.Release)
	case o.link().Present(), o.Guest.ModeErr == nil && o.Guest.Mode == "mirrored":
		return ok("%s", seen)
	case o.Guest.ModeErr != nil:
		return unseen("the networking mode", o.Guest.ModeErr).because("Without "+o.Iface+" Windows and Linux do not share localhost.", "")
	}
	switch o.Guest.Mode {
	case "nat":
		return ok("%s", seen).because("In this mode Windows forwards localhost itself: there is nothing for wslmirror to do.", "")
	case "consomme", "virtioproxy":
		return ok("%s, but there is no %s", seen, o.Iface).because("Localhost is not shared. In this mode localhostForwarding=false in .wslconfig turns that off.", "")
	case "none":
		return o.judgeNone(seen)
	}
	return ok("%s", seen).because("There is nothing for wslmirror to do in this mode.", "")
}

// judgeNone judges the mode without a network. Some users want it, but mostly it is what
// WSL falls back to when it cannot set up another (WslCoreVm.cpp).
func (o *Observation) judgeNone(seen string) Check {
	c := warning("%s: Linux has no network", seen)
	if o.WSLConfig.Err == nil && strings.EqualFold(o.WSLConfig.Value.Mode, "mirrored") {
		c = fault("%s: Linux has no network, though .wslconfig asks for mirrored", seen)
	}
	return c.because("WSL falls back to this mode if it cannot set up the one in .wslconfig. It shows the error when it starts.", "microsoft/WSL#41251").
		do(restart, "wsl.exe --update   # if that does not help; then restart Windows, which restarts its Host Network Service")
}
