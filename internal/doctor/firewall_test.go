package doctor

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/ports"
)

// ufwRules are what ufw 0.36 loads for IPv4, with its defaults, as far as it is about
// what comes in. USER is for the rules of the user's.
const ufwRules = `*filter
:INPUT DROP
:ufw-before-input -
:ufw-user-input -
:ufw-after-input -
:ufw-reject-input -
:ufw-track-input -
:ufw-not-local -
:ufw-logging-deny -
:ufw-skip-to-policy-input -
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A INPUT -j ufw-reject-input
-A INPUT -j ufw-track-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -p udp -d 224.0.0.251 --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-logging-deny -m conntrack --ctstate INVALID -m limit --limit 3/min --limit-burst 10 -j RETURN
-A ufw-after-input -p udp --dport 137 -j ufw-skip-to-policy-input
-A ufw-skip-to-policy-input -j DROP
USER
COMMIT
`

// firewalldRules are what firewalld 1.3 writes, as far as it is about what comes in.
const firewalldRules = `table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES { OWN goto filter_IN_public; }
	chain filter_IN_public { jump filter_IN_public_allow; meta l4proto { icmp, ipv6-icmp } accept; reject with icmpx admin-prohibited; }
	chain filter_IN_public_allow { tcp dport 22 accept; ip6 daddr fe80::/64 udp dport 546 accept; }
	chain filter_IN_trusted { accept; }
}
`

// Firewalls are judged by what they do to a packet, whoever wrote their rules.
func TestFirewalls(t *testing.T) {
	user := func(rule string) string { return strings.Replace(ufwRules, "USER", rule, 1) }
	zone := func(rule string) string { return strings.Replace(firewalldRules, "OWN", rule, 1) }
	const nft, iptables = "nft -f -", "iptables-nft-restore"
	for name, test := range map[string]struct {
		load, rules, check string
		want               Verdict
		do                 string
	}{
		"ufw":                       {iptables, user(""), "ufw", Fault, "sudo ufw allow in on loopback0"},
		"ufw, the link":             {iptables, user("-A ufw-user-input -i loopback0 -j ACCEPT"), "ufw", OK, ""},
		"ufw, another link":         {iptables, user("-A ufw-user-input -i eth0 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, from localhost":       {iptables, user("-A ufw-user-input -s 127.0.0.0/8 -j ACCEPT"), "ufw", OK, ""},
		"ufw, from the LAN":         {iptables, user("-A ufw-user-input -s 192.168.1.0/24 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, denied first":         {iptables, user("-A ufw-user-input -s 127.0.0.1 -j DROP\n-A ufw-user-input -i loopback0 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, the port":             {iptables, user("-A ufw-user-input -p tcp --dport 8080 -j ACCEPT"), "ufw", Warning, ""},
		"ufw, another port":         {iptables, user("-A ufw-user-input -p tcp --dport 80 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, default allow":        {iptables, strings.Replace(user(""), "INPUT DROP", "INPUT ACCEPT", 1), "ufw", OK, ""},
		"ufw, by time":              {iptables, user("-A ufw-user-input -m time --timestart 08:00 --timestop 18:00 -j ACCEPT"), "ufw", Unknown, ""},
		"firewalld":                 {nft, zone(""), "firewalld", Fault, "--zone=trusted --add-interface=loopback0"},
		"firewalld, trusted":        {nft, zone(`iifname "loopback0" goto filter_IN_trusted;`), "firewalld", OK, ""},
		"firewalld, another":        {nft, zone(`iifname "eth0" goto filter_IN_trusted;`), "firewalld", Fault, ""},
		"of one's own":              {nft, "table inet mine { chain in { type filter hook input priority 0; policy drop; iif lo accept; }; }", "input", Fault, "sudo nft insert rule inet mine in"},
		"of one's own, prerouting":  {nft, `table inet mine { chain pre { type filter hook prerouting priority raw; iifname "loopback0" drop; }; }`, "input", Fault, "sudo nft insert rule inet mine pre"},
		"of one's own, not certain": {nft, "table inet mine { chain in { type filter hook input priority 0; tcp dport 8080 limit rate over 1/second drop; }; }", "input", Unknown, "sudo nft list ruleset"},
		"of one's own, accepts":     {nft, "table inet mine { chain in { type filter hook input priority 0; policy drop; tcp dport 8080 accept; }; }", "input", OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := labtest.New(t, lab.Options{}).WSL
			o := healthy()
			o.Listeners.Value = []ports.Listener{{Proto: "tcp", Addr: netip.MustParseAddrPort("127.0.0.1:8080")}}
			runOn(t, h, test.load+" <<'END'\n"+test.rules+"\nEND")
			o.Ruleset = rulesetOn(t, h)
			c := run(o, test.check)
			if c.Verdict != test.want || !strings.Contains(c.Do, test.do) {
				t.Errorf("want %s: %+v\n%+v", test.want, c, o.Ruleset.Value.Drops)
			}
			for _, other := range []string{"ufw", "firewalld", "input"} {
				if c := run(o, other); other != test.check && c.Verdict != OK && c.Verdict != NotApplicable {
					t.Errorf("another check: %+v", c)
				}
			}
		})
	}
}

func rulesetOn(t *testing.T, h *lab.Host) (s Seen[Ruleset]) {
	t.Helper()
	h.Do(func() error {
		s.Value, s.Err = readRuleset("loopback0")
		return nil
	})
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	return s
}

// A table that a process owns is named with why nobody else can change it.
func TestOwnedTable(t *testing.T) {
	h := labtest.New(t, lab.Options{}).WSL
	owner, err := h.OwnTable("theirs", 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	o := healthy()
	o.Ruleset = rulesetOn(t, h)
	c := run(o, "input")
	if c.Verdict != Fault || !strings.Contains(c.Seen, "a program owns the table") || !strings.Contains(c.Do, "# have the program that owns the table") || strings.Contains(c.Do, "insert") {
		t.Errorf("%+v", c)
	}
	if c := run(o, "docker-loopback0"); c.Verdict == Fault || c.Verdict == Warning {
		t.Errorf("%+v", c)
	}
}
