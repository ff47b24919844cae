package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// checkLegacy: what iptables-legacy writes, nftables does not show, and both
// judge each packet.
func checkLegacy(o *Observation) Check {
	switch {
	case o.Legacy.Err != nil:
		return unseen("the tables of iptables-legacy", o.Legacy.Err)
	case len(o.Legacy.Value) == 0:
		return ok("iptables-legacy has no tables")
	}
	return warning("iptables-legacy has tables beside those of nftables: %s", strings.Join(o.Legacy.Value, ", ")).
		because("Nobody sees the rules of the other: wslmirror does not know of a port that is published there, and treats it as one with a proxy.", "").
		do("sudo iptables-legacy-save   # what is in them",
			"sudo update-alternatives --set iptables /usr/sbin/iptables-nft",
			restart)
}

func checkNetworkManager(o *Observation) Check {
	switch {
	case o.Programs.Err != nil:
		return unseen("the processes", o.Programs.Err)
	case !o.runs("NetworkManager"):
		return notApplicable("NetworkManager does not run")
	case o.Managed.Err == nil && !o.Managed.Value:
		return ok("NetworkManager runs, and leaves %s alone", o.Iface)
	}
	c := warning("NetworkManager runs, and manages %s", o.Iface)
	if o.Managed.Err != nil {
		c = Check{Verdict: Unknown, Seen: "NetworkManager runs; could not ask it about " + o.Iface + ": " + o.Managed.Err.Error()}
	}
	return c.because("WSL sets the links up, and what NetworkManager does to their addresses and routes comes between.", "").
		// With += it adds to what other files have.
		do(`printf '[keyfile]\nunmanaged-devices+=interface-name:`+o.Iface+`;interface-name:eth*\n' | sudo tee /etc/NetworkManager/conf.d/wslmirror.conf`,
			"sudo systemctl reload NetworkManager")
}

// managed asks NetworkManager.
func managed(ctx context.Context, iface string) (bool, error) {
	out, err := output(ctx, "nmcli", "-g", "GENERAL.STATE", "device", "show", iface)
	if err != nil {
		return false, fmt.Errorf("nmcli: %w", err)
	}
	return parseManaged(string(out))
}

// parseManaged reads a state as "10 (unmanaged)", whose words may be in any language.
func parseManaged(out string) (bool, error) {
	number, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	state, err := strconv.Atoi(number)
	if err != nil {
		return false, errors.New("nmcli printed something else than a state")
	}
	const unmanaged = 10 // NM_DEVICE_STATE_UNMANAGED
	return state > unmanaged, nil
}
