package ruleset

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Other programs' rules next to a Docker port, and their effect on the path direct.
func TestObstaclesOfOthers(t *testing.T) {
	const closes = "iptables-nft -I INPUT -i loopback0 -p tcp --dport 8080 -j DROP"
	tests := map[string]struct {
		command string
		want    Obstacle
	}{
		"nothing":             {"true", ""},
		"INPUT is closed":     {closes, NotAccepted},
		"OUTPUT may refuse":   {"iptables-nft -I OUTPUT -d 127.0.0.1 -p tcp --dport 8080 -m owner --uid-owner 65534 -j REJECT", NotAccepted},
		"a conntrack zone":    {"nft 'table ip z { chain c { type filter hook prerouting priority raw; iif loopback0 tcp dport 8080 ct zone set 7; }; }'", NotUnderstood},
		"a zone, by iptables": {"iptables-nft -t raw -I PREROUTING -p tcp --dport 8080 -j CT --zone 7", NotUnderstood},
		"a dormant table":     {"nft 'table inet z { flags dormant; chain c { type filter hook input priority 0; drop; }; }'", ""},
	}
	h, index := host(t)
	file := filepath.Join(t.TempDir(), "docker.iptables")
	if err := os.WriteFile(file, []byte(docker([]int{8080})), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range tests {
		load(t, h, file)
		if _, err := h.Run("sh", "-c", test.command); err != nil {
			t.Fatal(err)
		}
		a := readRules(t, h).Analyse(Iface{"loopback0", index}, recordedBridges)
		if len(a.Published) != 1 || a.Published[0].Obstacle != test.want {
			t.Errorf("%s: %+v, want %q", name, a.Published, test.want)
		}
	}
	// A rule only for arriving packets is not an engine's.
	load(t, h, file)
	if _, err := h.Run("iptables-nft", strings.Fields("-t nat -I PREROUTING -p tcp --dport 8001 -j DNAT --to-destination 172.17.0.2:80")...); err != nil {
		t.Fatal(err)
	}
	a := readRules(t, h).Analyse(Iface{"loopback0", index}, recordedBridges)
	if len(a.Published) != 2 || a.Published[0].Obstacle != NotEngines || a.Published[1].Obstacle != "" {
		t.Errorf("%+v", a.Published)
	}
}

// Ports that a user's own rules translate for Windows are left alone.
func TestUsersRulesAreLeftAlone(t *testing.T) {
	h, index := host(t)
	for name, rules := range map[string]string{
		"to another port of this machine": "chain p { type nat hook prerouting priority dstnat; iif loopback0 tcp dport 8080 dnat to 127.0.0.1:8001; }",
		"to one of several":               "chain p { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 172.17.0.2-172.17.0.3:80; }\nchain o { type nat hook output priority -100; tcp dport 8080 dnat to 172.17.0.2-172.17.0.3:80; }",
		"many ports":                      "chain p { type nat hook prerouting priority dstnat; tcp dport 8000-9800 dnat to 172.17.0.2:80; }\nchain o { type nat hook output priority -100; tcp dport 8000-9800 dnat to 172.17.0.2:80; }",
	} {
		file := filepath.Join(t.TempDir(), "rules.nft")
		if err := os.WriteFile(file, []byte("table ip mine {\n"+rules+"\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if a := load(t, h, file).Analyse(Iface{"loopback0", index}, nil); !a.EngineServed.Has(Port{tcp, 8080}) {
			t.Errorf("%s: left alone are %s", name, a.EngineServed)
		}
	}
}
