package doctor

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
)

// hostile are names that the kernel takes for a link; it forbids only a slash, a
// colon and spaces (dev_valid_name).
var hostile = []string{"$(reboot)", "`reboot`", ";reboot;#", "'&reboot&'", "|reboot", "\"'$(id)\"'", "e\x1b[2Jh", "x\u202ey", "eth*"}

// What is typed as doctor says runs nothing but what doctor says, whatever
// processes and links are called.
func TestHostileNames(t *testing.T) {
	of := func(name string) *Observation {
		o := healthy()
		for i := range o.Net.Value.Rules {
			if o.Net.Value.Rules[i].Iif == "eth0" {
				o.Net.Value.Rules[i].Iif = name
			}
		}
		o.Net.Value.Links[2].Name = name
		answers := o.Net.Value.Paths
		o.Net.Value.Paths = o.Net.Value.paths("loopback0")
		for i := range answers {
			o.Net.Value.Paths[i].Is = answers[i].Is
		}
		return o
	}
	says := map[string]func(o *Observation, name string){
		"rp-filter":  func(o *Observation, name string) { o.Sysctls.Value[name] = Conf{RPFilter: 1} },
		"wsl-chains": func(o *Observation, _ string) { o.Ruleset.Value.WSL[1].Rules = nil },
		"ip-rules": func(o *Observation, name string) { // one is missing
			o.Net.Value.Rules = slices.Delete(o.Net.Value.Rules, 3, 4)
			elsewhere(o, func(p Path) bool { return p.Rule.Iif == name })
		},
		"ip-rules ": func(o *Observation, name string) { // one is too many, and takes another of the kind with it
			elsewhere(o, func(Path) bool { return true })
			o.Net.Value.Rules = slices.Insert(o.Net.Value.Rules, 5, netwatch.Rule{
				Priority: 0, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, Iif: name, Oif: name, SuppressPrefix: -1,
			}, netwatch.Rule{Priority: 0, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_MAIN, SuppressPrefix: -1})
		},
		"instances": func(o *Observation, name string) {
			o.Programs.Value = append(o.Programs.Value, Program{110, "wslmirror", []string{"wslmirror", "run", "x\n" + name, name}, true, false})
		},
	}
	for _, name := range hostile {
		for check, change := range says {
			o := of(name)
			change(o, name)
			c := run(o, strings.TrimSpace(check))
			if c.Do == "" || check == "instances" && c.Do != "sudo kill 110" {
				t.Errorf("%s: %+v", check, c)
			}
			for line := range strings.Lines(c.Do) {
				runs(t, strings.TrimSuffix(line, "\n"))
			}
		}
	}
}

// elsewhere has the kernel send some packets elsewhere.
func elsewhere(o *Observation, some func(Path) bool) {
	for i, p := range o.Net.Value.Paths {
		if some(p) {
			o.Net.Value.Paths[i].Is = netwatch.RouteAnswer{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
		}
	}
}

// runs has a shell run a line. It has stand-ins for sudo and the others that doctor
// names, and no program else; what asks for one fails the test.
func runs(t *testing.T, line string) {
	t.Helper()
	if text.Line(line) != line {
		t.Errorf("not fit to be typed: %q", line)
	}
	const allowed = `sudo() { :; }; printf() { :; }; journalctl() { :; }; socat() { :; }; wsl.exe() { :; }; ss() { cat; }; awk() { cat; }; sort() { cat; }; uniq() { cat; }; tail() { cat; }; cat() { :; }`
	cmd := exec.Command("bash", "-c", allowed+"\n"+line)
	cmd.Env = []string{"PATH=/nowhere"}
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%q: %v, %s", line, err, out)
	}
}

// Not even a check that forgets about it can add a line.
func TestDoIsOneLineEach(t *testing.T) {
	c := Check{}.do("sudo one\nreboot\r\x1b[2J\u202e\x00", "sudo two")
	if c.Do != "sudo one?reboot??[2J??\nsudo two" {
		t.Errorf("%q", c.Do)
	}
}

// nftables.service flushes when it stops, so it must not stop after the chains
// were restored.
func TestRestoresLast(t *testing.T) {
	o := healthy()
	o.Ruleset.Value.WSL[1].Rules, o.Ruleset.Value.Docker = nil, false
	o.Podman.Present = true
	if do := run(o, "wsl-chains").Do; strings.Contains(do, "nftables") {
		t.Errorf("a guess: %s", do)
	}
	o.NFTables = true
	lines := strings.Split(run(o, "wsl-chains").Do, "\n")
	at := func(text string) int {
		return slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, text) })
	}
	disable, restore, docker, podman := at("sudo systemctl disable nftables"), at("sudo nft "), at("sudo systemctl restart docker"), at("sudo podman network reload --all")
	if disable < 0 || disable > restore || restore > docker || restore > podman || slices.ContainsFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, "sudo") && strings.Contains(l, "--now")
	}) {
		t.Errorf("%q", lines)
	}
	o.Legacy.Value = []string{"filter", "nat"} // where Docker's rules still are
	if do := run(o, "wsl-chains").Do; strings.Contains(do, "restart docker") {
		t.Error(do)
	}
}

func TestListen(t *testing.T) {
	for _, test := range []struct {
		p    status.Port
		want string
	}{
		{status.Port{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "cni"}, "socat TCP-LISTEN:8080,fork,reuseaddr TCP:172.17.0.2:80 &"},
		{status.Port{Proto: "udp", Port: 8053, Address: "0.0.0.0", Target: "172.17.0.2:53", Engine: "cni"}, "socat UDP-LISTEN:8053,fork UDP:172.17.0.2:53 &"},
		// Not where nobody has published it.
		{status.Port{Proto: "tcp", Port: 8080, Address: "127.0.0.1", Target: "172.17.0.2:80", Engine: "cni"}, "socat TCP-LISTEN:8080,fork,reuseaddr,bind=127.0.0.1 TCP:172.17.0.2:80 &"},
		{status.Port{Proto: "udp", Port: 53, Address: "192.168.1.5", Target: "172.17.0.2:53", Engine: "cni"}, "sudo -b socat UDP-LISTEN:53,fork,bind=192.168.1.5 UDP:172.17.0.2:53"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "", Target: "172.17.0.2:80", Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "::1%$(reboot)", Target: "172.17.0.2:80", Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "127.0.0.1;reboot", Target: "172.17.0.2:80", Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp", Port: 80, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "cni"}, "sudo -b socat TCP-LISTEN:80,fork,reuseaddr TCP:172.17.0.2:80"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: netip.AddrPort{}.String(), Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "0.0.0.0:80", Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:0", Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80;reboot", Engine: "cni"}, "# publish 8080"},
		{status.Port{Proto: "tcp;reboot", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "cni"}, "# publish 8080"},
	} {
		if got := listen(test.p); !strings.HasPrefix(got, test.want) {
			t.Errorf("%+v: %s", test.p, got)
		}
	}
}
