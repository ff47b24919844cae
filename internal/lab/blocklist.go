package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Blocklist has the host drop what comes from or goes to n addresses and n networks,
// at the hooks prerouting, output and forward, as CrowdSec, fail2ban and lists of
// countries do. The sets are drop_here and drop_net of the table inet blocklist.
func (h *Host) Blocklist(n int) error {
	var hosts, nets strings.Builder
	for i := range n {
		fmt.Fprintf(&hosts, "%d.%d.%d.%d,", 100+i>>16, i>>8&255, i&255, 1)
		fmt.Fprintf(&nets, "%d.%d.%d.0/24,", 110+i>>16, i>>8&255, i&255)
	}
	rules := `table inet blocklist {
	set drop_here { type ipv4_addr; elements = { ` + hosts.String() + ` }; }
	set drop_net { type ipv4_addr; flags interval; elements = { ` + nets.String() + ` }; }
	chain arriving { type filter hook prerouting priority -200; ip saddr @drop_here drop; ip saddr @drop_net drop; }
	chain leaving { type filter hook output priority -200; ip daddr @drop_here drop; ip daddr @drop_net drop; }
	chain passing { type filter hook forward priority -200; ip saddr @drop_here drop; ip daddr @drop_here drop; ip saddr @drop_net drop; }
}`
	file, err := os.CreateTemp("", "blocklist-*.nft")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(rules)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	_, err = h.Run("nft", "-f", file.Name())
	return err
}
