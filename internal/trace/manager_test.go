package trace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// Only the manager of a chain keeps what is added there, so its own command is suggested. The
// end-to-end tests run these commands.
func TestManagers(t *testing.T) {
	const inet = "inet firewalld"
	own, other := ruleset.Localhost, netip.MustParseAddr("192.0.2.2")
	for name, test := range map[string]struct {
		hop  Hop
		dst  netip.Addr
		off  bool // ufw is off
		want string
	}{
		"ufw's policy":         {Hop{Table: "ip filter", Chain: "INPUT", Hook: "input", In: "loopback0"}, own, false, "sudo ufw prepend allow in on loopback0 to 127.0.0.1"},
		"ufw's rule":           {Hop{Table: "ip filter", Chain: "ufw-user-input", Handle: 7, Hook: "input", In: "loopback0"}, own, false, "sudo ufw prepend allow in on loopback0 to 127.0.0.1"},
		"ufw's own rules":      {Hop{Table: "ip filter", Chain: "ufw-before-input", Handle: 7, Hook: "input", In: "loopback0"}, own, false, "# let /etc/ufw/before.rules accept it, and then: sudo ufw reload"},
		"ufw's end":            {Hop{Table: "ip filter", Chain: "ufw-not-local", Handle: 7, Hook: "input", In: "loopback0"}, own, false, "# let /etc/ufw/before.rules accept it, and then: sudo ufw reload"},
		"ufw, from the LAN":    {Hop{Table: "ip filter", Chain: "INPUT", Hook: "input", In: "eth0"}, other, false, "sudo ufw prepend allow in on eth0 proto tcp to 192.0.2.2 port 8080"},
		"ufw, to Windows":      {Hop{Table: "ip filter", Chain: "OUTPUT", Hook: "output", Out: "loopback0"}, own, false, "sudo ufw prepend allow out on loopback0 to 127.0.0.1"},
		"ufw, proxy":           {Hop{Table: "ip filter", Chain: "OUTPUT", Hook: "output", Out: "docker0"}, web, false, "sudo ufw prepend allow out on docker0"},
		"ufw, forwarded":       {Hop{Table: "ip filter", Chain: "FORWARD", Hook: "forward", In: "loopback0", Out: "docker0"}, web, false, "sudo ufw route prepend allow in on loopback0 out on docker0"},
		"ufw, LAN, forwarded":  {Hop{Table: "ip filter", Chain: "FORWARD", Hook: "forward", In: "eth0", Out: "docker0"}, web, false, "sudo ufw route prepend allow in on eth0 out on docker0 proto tcp to 172.17.0.2 port 8080"},
		"ufw, a hostile name":  {Hop{Table: "ip filter", Chain: "INPUT", Hook: "input", In: "a;b"}, other, false, "sudo ufw prepend allow in on 'a;b' proto tcp to 192.0.2.2 port 8080"},
		"rule beside ufw":      {Hop{Table: "ip filter", Chain: "INPUT", Handle: 7, Hook: "input", In: "loopback0"}, own, false, ""},
		"policy without ufw":   {Hop{Table: "ip filter", Chain: "INPUT", Hook: "input", In: "loopback0"}, own, true, ""},
		"another table":        {Hop{Table: "inet filter", Chain: "INPUT", Hook: "input", In: "loopback0"}, own, false, ""},
		"firewalld":            {Hop{Table: inet, Chain: "filter_INPUT_POLICIES", Hook: "input", In: "loopback0"}, own, false, "--zone=trusted --change-interface=loopback0"},
		"firewalld, LAN":       {Hop{Table: inet, Chain: "filter_IN_public", Hook: "input", In: "eth0"}, other, false, "--add-port=8080/tcp"},
		"firewalld, trusted":   {Hop{Table: inet, Chain: "filter_IN_trusted_deny", Hook: "input", In: "loopback0"}, own, false, "--zone=trusted --add-rich-rule='rule priority=-1 family=ipv4 destination address=127.0.0.1 accept'"},
		"firewalld, policy":    {Hop{Table: inet, Chain: "filter_OUT_policy_a_b_post", Hook: "output", Out: "docker0"}, web, false, "--policy=a_b --add-rich-rule='rule priority=-1 family=ipv4 destination address=172.17.0.2 accept'"},
		"firewalld masquerade": {Hop{Table: inet, Chain: "nat_POST_public_allow", Hook: "postrouting", Out: "loopback0", nat: true}, own, false, "--zone=trusted --change-interface=loopback0"},
		"policy masquerades":   {Hop{Table: inet, Chain: "nat_POST_policy_vpn_allow", Hook: "postrouting", Out: "loopback0", nat: true}, own, false, "# let firewalld leave the source of packets alone that leave through loopback0"},
	} {
		o := world()
		o.UFW = !test.off
		p := &packet{f: &forecast{Observation: o}, dst: test.dst, port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}}
		test.hop.Manager = o.manager(test.hop)
		if test.hop.Manager == "" {
			if got := p.accept(test.hop, ""); test.want != "" || !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "sudo nft insert") }) {
				t.Errorf("%s: %q", name, got)
			}
			continue
		}
		want := []string{test.want}
		if strings.HasPrefix(test.want, "--") { // now, and after a reload
			want = []string{"sudo firewall-cmd " + test.want, "sudo firewall-cmd --permanent " + test.want}
		}
		if got := p.accept(test.hop, ""); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
