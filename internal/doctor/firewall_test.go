package doctor

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

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

// Firewalls are judged by what they do to packets and answers, whoever wrote their rules.
// One cause is one fault, and what is said to type mends all that it names.
func TestFirewalls(t *testing.T) {
	user := func(rule string) string { return strings.Replace(ufwRules, "USER", rule, 1) }
	zone := func(rule string) string { return strings.Replace(firewalldRules, "OWN", rule, 1) }
	const nft, iptables = "nft -f -", "iptables-nft-restore --noflush"
	one := func(hook, rules string) string {
		return "table inet mine { chain c { type filter hook " + hook + "; " + rules + " }; }"
	}
	const everything = "Windows to 8080/tcp, 8081/tcp; Linux to 8080/tcp, 8081/tcp; Linux to Windows"
	for name, test := range map[string]struct {
		load, rules, check string
		want               Verdict
		says               string
	}{
		"ufw":                 {iptables, user(""), "ufw", Fault, "sudo ufw prepend allow in on loopback0 to 127.0.0.1"},
		"ufw, the link":       {iptables, user("-A ufw-user-input -i loopback0 -j ACCEPT"), "ufw", OK, ""},
		"ufw, another link":   {iptables, user("-A ufw-user-input -i eth0 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, from localhost": {iptables, user("-A ufw-user-input -s 127.0.0.0/8 -j ACCEPT"), "ufw", OK, ""},
		"ufw, from the LAN":   {iptables, user("-A ufw-user-input -s 192.168.1.0/24 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, the ports":      {iptables, user("-A ufw-user-input -p tcp --dport 8080:8081 -j ACCEPT"), "ufw", Warning, "Windows to new listeners"},
		"ufw, denied port":    {iptables, user("-A ufw-user-input -p tcp --dport 8080 -j DROP\n-A ufw-user-input -i loopback0 -j ACCEPT"), "ufw", Fault, "sudo ufw prepend allow in on loopback0 to 127.0.0.1"},
		"ufw, disabled":       {iptables, "*filter\n:INPUT ACCEPT\n:ufw-before-input -\n-A INPUT -j ufw-before-input\nCOMMIT", "ufw", NotApplicable, "ufw is off"},
		"ufw, another port":   {iptables, user("-A ufw-user-input -p tcp --dport 80 -j ACCEPT"), "ufw", Fault, ""},
		"ufw, default allow":  {iptables, strings.Replace(user(""), "INPUT DROP", "INPUT ACCEPT", 1), "ufw", OK, ""},
		"ufw, denies outgoing": {iptables, strings.Replace(user("-A ufw-user-input -i loopback0 -j ACCEPT"), ":INPUT DROP", ":INPUT DROP\n:OUTPUT DROP", 1),
			"ufw", Fault, "sudo ufw prepend allow out on loopback0 to 127.0.0.1"},
		"ufw, by time":       {iptables, user("-A ufw-user-input -m time --timestart 08:00 --timestop 18:00 -j ACCEPT"), "ufw", Unknown, "sudo wslmirror trace 8080 --from windows"},
		"firewalld":          {nft, zone(""), "firewalld", Fault, "--permanent --zone=trusted --change-interface=loopback0"},
		"firewalld, trusted": {nft, zone(`iifname "loopback0" goto filter_IN_trusted;`), "firewalld", OK, ""},
		"firewalld, another": {nft, zone(`iifname "eth0" goto filter_IN_trusted;`), "firewalld", Fault, ""},
		"input":              {nft, one("input priority 0; policy drop", "iif lo accept;"), "input", Fault, everything},
		"input, established": {nft, one("input priority 0; policy drop", "ct state established accept; iif lo accept;"), "input", Fault, "Windows to 8080/tcp, 8081/tcp; Linux to 8080/tcp, 8081/tcp (the policy of inet mine c drops it)"},
		"prerouting":         {nft, one("prerouting priority raw", `iifname "loopback0" drop;`), "input", Fault, "sudo nft insert rule inet mine c position"},
		"anti-spoofing":      {nft, one("prerouting priority raw", `iif != "lo" ip saddr 127.0.0.0/8 drop;`), "input", Fault, everything},
		"not certain":        {nft, one("input priority 0", "tcp dport 8080 limit rate over 1/second drop;"), "input", Unknown, "inet mine c may drop it"},
		"surely lost":        {nft, one("input priority 0; policy drop", "iif lo accept; ct state established accept; tcp dport 8080-8081 limit rate over 1/second reject;"), "input", Fault, "Windows to 8080/tcp"},
		"maybe let in":       {nft, one("input priority 0; policy drop", "iif lo accept; ct state established accept; tcp dport 8080-8081 limit rate 1/second accept;"), "input", Unknown, "not certain"},
		"the ports let in":   {nft, one("input priority 0; policy drop", "ct state established accept; tcp dport 8080-8081 accept;"), "input", Warning, "Windows to new listeners"},
		"output":             {nft, one("output priority 0; policy drop", `oif "lo" accept;`), "output", Fault, everything},
		"output, two rules":  {nft, one("output priority 0", `oif "loopback0" tcp sport 8080 drop; oif "loopback0" drop;`), "output", Fault, "Windows to 8080/tcp; Linux to 8080/tcp (rule 2 of inet mine c drops it)"},
		"masquerade":         {nft, "table ip vpn { chain post { type nat hook postrouting priority srcnat - 10; oif != lo masquerade; }; }", "output", Fault, "Linux to 8080/tcp, 8081/tcp; Linux to Windows (ip vpn post changes its source"},
		"a name that nft refuses": {iptables, "*filter\n:INPUT ACCEPT\n:in;put -\n-A INPUT -j in;put\n-A in;put ! -i lo -j DROP\nCOMMIT", "input", Fault,
			"sudo nft list ruleset"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			runOn(t, b.WSL, test.load+" <<'END'\n"+test.rules+"\nEND")
			for _, port := range []string{"8080", "8081"} {
				if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:"+port); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Windows.ServeEcho("tcp", "127.0.0.1:7000"); err != nil {
				t.Fatal(err)
			}
			o := seenOn(t, b.WSL)
			c := run(o, test.check)
			if c.Verdict != test.want || !strings.Contains(c.Seen+"\n"+c.Do, test.says) {
				t.Errorf("want %s with %q: %+v", test.want, test.says, c)
			}
			onlyCause(t, o, c)
			if c.Verdict != Fault || strings.Contains(c.Do, "list ruleset") {
				return
			}
			for line := range strings.Lines(c.Do) {
				if line = typed(line); line != "" {
					runOn(t, b.WSL, line)
				}
			}
			for _, c := range judge(seenOn(t, b.WSL)) {
				if c.Verdict == Fault || c.Verdict == Warning || c.Verdict == Unknown {
					t.Errorf("mended: %+v", c)
				}
			}
			for to, client := range map[string]*lab.Host{"127.0.0.1:8080": b.Windows, "127.0.0.1:8081": b.WSL, "127.0.0.1:7000": b.WSL} {
				if _, err := client.Ask("tcp", to, labtest.Patience()); err != nil {
					t.Errorf("mended: %s: %v", to, err)
				}
			}
		})
	}
}

// onlyCause fails the test if another check than c complains.
func onlyCause(t *testing.T, o *Observation, c Check) {
	t.Helper()
	for _, other := range judge(o) {
		if other.Name != c.Name && other.Verdict != OK && other.Verdict != NotApplicable {
			t.Errorf("beside %s: %+v", c.Name, other)
		}
	}
}

// typed is a line as it is typed where there is neither ufw nor firewalld: what those make
// of it. The end-to-end tests have the real ones.
func typed(line string) string {
	line = strings.TrimSpace(line)
	rest, input := strings.CutPrefix(line, "sudo ufw prepend allow in on ")
	if input {
		return "iptables-nft -I ufw-user-input -j ACCEPT -i " + strings.Replace(rest, " to ", " -d ", 1)
	}
	rest, output := strings.CutPrefix(line, "sudo ufw prepend allow out on ")
	if output {
		return "iptables-nft -I OUTPUT -j ACCEPT -o " + strings.Replace(rest, " to ", " -d ", 1)
	}
	link, zone := strings.CutPrefix(line, "sudo firewall-cmd --zone=trusted --change-interface=")
	switch {
	case zone:
		return "nft insert rule inet firewalld filter_INPUT_ZONES iifname " + link + " goto filter_IN_trusted"
	case strings.HasPrefix(line, "#"), strings.HasPrefix(line, "sudo firewall-cmd --permanent "):
		return ""
	}
	return line
}

// seenOn is what is healthy, but for the network, the sockets and the rules of h.
func seenOn(t *testing.T, h *lab.Host) *Observation {
	t.Helper()
	o := healthy()
	ours := o.Ruleset.Value.Ours // no daemon serves the bench
	if err := h.Do(func() error {
		o.Net.Value, o.Net.Err = readNetwork("loopback0")
		o.Listeners.Value, o.Listeners.Err = ports.Listeners()
		o.Ruleset.Value, o.Ruleset.Err = readRuleset(o.traced(func(netip.Addr) ([]ports.Listener, error) { return nil, errors.New("not seen") }), nil, time.Now().Add(Timeout))
		return errors.Join(o.Net.Err, o.Listeners.Err, o.Ruleset.Err)
	}); err != nil {
		t.Fatal(err)
	}
	o.Ruleset.Value.Ours, o.Ruleset.Value.Docker = ours, true
	return o
}

// A table that a process owns is named with why nobody else can change it.
func TestOwnedTable(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:8080"); err != nil {
		t.Fatal(err)
	}
	owner, err := b.WSL.OwnTable("theirs", 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	o := seenOn(t, b.WSL)
	c := run(o, "input")
	if c.Verdict != Fault || !strings.HasPrefix(c.Do, "# let the program that owns the table ip theirs accept it\nsudo nft list table ip theirs") {
		t.Errorf("%+v", c)
	}
	onlyCause(t, o, c)
}
