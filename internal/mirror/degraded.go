package mirror

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
)

// What a kernel may lack, as text for users.
const (
	lacksRepair    = "this kernel lacks nft_ct or nft_masq"
	lacksToWindows = "this kernel lacks nft_ct"
	lacksRefuse    = "this kernel lacks nft_ct, nft_reject or CONFIG_NF_CONNTRACK_TIMEOUT (WSL's kernels have them since 6.6)"
	lacksEvict     = "this kernel lacks nf_conntrack_netlink"
)

// lacks returns the parts of a policy that are left out because the kernel lacks what they
// need, and how to fix that. unevicted is why flows could not be evicted.
func lacks(obs Observed, p Policy, unevicted error) (list []status.Lack) {
	lack := func(is bool, feature, reason, modules string) {
		if is {
			list = append(list, status.Lack{Feature: feature, Reason: reason, Fix: []string{
				"sudo modprobe -a " + modules,
				"wsl.exe --update   # if the module does not exist; a custom kernel needs it built in, or kernelModules in .wslconfig",
			}})
		}
	}
	lack(p.Repair && obs.Lacks.Repair, "localhost from Linux", lacksRepair, "nft_ct nft_masq")
	lack(p.Repair && obs.Mode.Mirrors() && obs.Lacks.Refuse, "closed ports", lacksRefuse, "nft_ct nft_reject_ipv4")
	lack(p.Direct && obs.Lacks.Direct, "the path direct", lacksRepair, "nft_ct nft_masq")
	lack(!p.ToWindows.Empty() && obs.Lacks.ToWindows, "containers to Windows", lacksToWindows, "nft_ct")
	// nfnetlink returns these errors for a subsystem that does not exist.
	lack(errors.Is(unevicted, unix.EINVAL) || errors.Is(unevicted, unix.ENOENT),
		"reset of earlier connections", lacksEvict, "nf_conntrack_netlink")
	return list
}

func sameFeature(a, b status.Lack) bool { return a.Feature == b.Feature && a.Reason == b.Reason }
