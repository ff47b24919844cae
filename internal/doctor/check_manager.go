package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// checkLegacy looks for rules of iptables-legacy. nftables does not show them, and both
// apply to each packet.
func checkLegacy(o *Observation) Check {
	switch {
	case o.Legacy.Err != nil:
		return unseen("the tables of iptables-legacy", o.Legacy.Err)
	case len(o.Legacy.Value) == 0:
		return ok("iptables-legacy has no tables")
	}
	return warning("iptables-legacy has tables beside those of nftables: %s", strings.Join(o.Legacy.Value, ", ")).
		because("nftables does not show these rules. wslmirror does not know ports that are published there, and treats them as proxied.", "").
		do("sudo iptables-legacy-save   # shows their rules",
			"sudo update-alternatives --set iptables /usr/sbin/iptables-nft",
			restart)
}

func checkNetworkManager(o *Observation) Check {
	switch {
	case o.Programs.Err != nil:
		return unseen("the processes", o.Programs.Err)
	case !o.runs("NetworkManager"):
		return notApplicable("NetworkManager is not running")
	case o.Managed.Err == nil && !o.Managed.Value:
		return ok("NetworkManager is running, and leaves %s alone", o.Iface)
	}
	c := warning("NetworkManager is running, and manages %s", o.Iface)
	if o.Managed.Err != nil {
		c = Check{Verdict: Unknown, Seen: "NetworkManager is running; could not ask it about " + o.Iface + ": " + o.Managed.Err.Error()}
	}
	return c.because("WSL configures the links. Changes that NetworkManager makes to their addresses and routes conflict with that.", "").
		// += adds to the settings in other files.
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

// parseManaged reads a state like "10 (unmanaged)". The words may be in any language.
func parseManaged(out string) (bool, error) {
	number, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	state, err := strconv.Atoi(number)
	if err != nil {
		return false, errors.New("nmcli did not print a state")
	}
	const unmanaged = 10 // NM_DEVICE_STATE_UNMANAGED
	return state > unmanaged, nil
}
