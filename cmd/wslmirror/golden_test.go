package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/ports"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/trace"
	"github.com/wslmirror/wslmirror/internal/windows"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

var update = flag.Bool("update", false, "write the recorded outputs in testdata anew")

// An output is what a command prints in one situation.
type output struct {
	typed, when string
	text        func(screen) string
}

// TestRecorded compares what the commands print with testdata, where people can read
// it: at each width, and in locales with and without UTF-8.
func TestRecorded(t *testing.T) {
	defer func(old *time.Location) { time.Local = old }(time.Local)
	time.Local = time.UTC
	for name, outputs := range map[string][]output{
		"status": statusOutputs(t), "ports": portsOutputs(), "doctor": doctorOutputs(t), "trace": traceOutputs(t), "log": logOutputs(),
	} {
		for _, width := range []int{60, 80, 200} {
			for _, locale := range []string{"UTF-8", "C"} {
				var b bytes.Buffer
				for _, o := range outputs {
					fmt.Fprintf(&b, "#### %s\n$ %s\n%s\n", o.when, o.typed, o.text(screen{width: width, ascii: locale == "C"}))
				}
				file := filepath.Join("testdata", fmt.Sprintf("%s.%d.%s", name, width, locale))
				matchFile(t, file, b.Bytes())
				if bytes.Contains(b.Bytes(), []byte{'\t'}) || locale == "C" && bytes.ContainsFunc(b.Bytes(), func(r rune) bool { return r > 126 }) {
					t.Errorf("%s has what a terminal may not show", file)
				}
			}
		}
	}
}

// TestDocuments compares the JSON documents with testdata, where people can read them, and
// with their schemas.
func TestDocuments(t *testing.T) {
	active := goldenStatus()
	active.State, active.PID, active.Updated = status.Active, 161, goldenNow
	active.SourcePorts = &status.PortRange{First: 60700, Last: 64795}
	active.Ports[1].Reason = "forwarding is off (net.ipv4.ip_forward)"
	f := goldenPorts()
	silent := f
	silent.windows = map[string]windows.Ports{}
	for _, proto := range []string{"tcp", "udp"} {
		err := &windows.Error{Program: "netsh.exe", Problem: windows.Slow}
		silent.windows[proto] = windows.Ports{ExcludedErr: err, DynamicErr: err, ListenersErr: err}
	}
	silent.block = ports.Block{Range: f.block.Range}
	live := goldenLive()
	for name, document := range map[string]any{
		"status":        timed(active),
		"status-old":    timed(status.Snapshot{State: status.Active, Since: goldenNow, Updated: goldenNow, Path: status.PathProxy, Ports: []status.Port{}}),
		"trace":         traceDocument{schema, 8080, "tcp", printed, nil},
		"trace-live":    traceDocument{schema, 8080, "tcp", printed[:1], &live},
		"ports":         f.json(),
		"ports-silent":  silent.json(),
		"ports-explain": explainJSON{schema, ports.Explain(f.of("tcp"), 1650)},
		"ports-free":    f.free("tcp", 8080, 3),
		"doctor":        doctorDocument{schema, "0.1.0", goldenReport()},
	} {
		var b bytes.Buffer
		if err := writeJSON(&b, document); err != nil {
			t.Fatal(err)
		}
		kind := strings.NewReplacer("-old", "", "-live", "", "-silent", "").Replace(name)
		labtest.WantValid(t, kind, b.Bytes())
		matchFile(t, filepath.Join("testdata", name+".json"), b.Bytes())
	}
}

// matchFile fails the test unless a file of testdata is what is printed now.
func matchFile(t *testing.T, file string, now []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(now, want) {
		t.Errorf("%s is out of date; if this is right, 'go test ./cmd/wslmirror -run \"Recorded|Documents\" -update':\n%s", file, now)
	}
}

var goldenNow = time.Date(2026, 11, 27, 10, 0, 24, 0, time.UTC)

// goldenStatus is that of a daemon with work to do.
func goldenStatus() status.Snapshot {
	return status.Snapshot{
		Interface: status.Interface{Name: "loopback0", Index: 3, Present: true}, Mode: "mirrored", Path: status.PathProxy,
		Table: status.Table{Family: "ip", Name: "wslmirror", Installed: true}, Version: "0.1.0", Since: goldenNow.Add(-8 * time.Second),
		Directions: []status.Direction{
			{Name: status.FromWindows, Active: true, Connections: 2},
			{Name: status.FromLinux, Active: true, Connections: 1},
			{Name: status.ClosedPorts, Active: true, Connections: 1},
			{Name: status.OwnAddress, Reason: "only with hostAddressLoopback in mirrored mode"},
			{Name: status.ContainersToWindows, Active: true, Connections: 3, Ports: []string{"11434/tcp"}, Reason: "Linux itself serves 9003/tcp"},
		},
		Ports: []status.Port{
			{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: status.PathProxy},
			{Proto: "udp", Port: 5353, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: status.PathProxy},
			{Proto: "tcp", Port: 8090, Address: "127.0.0.1", Target: "10.88.0.5:8080", Engine: "podman", Path: status.PathKernel},
		},
	}
}

func statusOutputs(t *testing.T) (list []output) {
	base := goldenStatus()
	here := surroundings{wsl: true, mode: "mirrored", link: true, wslLink: true, systemd: true, now: goldenNow}
	add := func(when string, change func(*status.Snapshot, *surroundings)) {
		s, at := base, here
		change(&s, &at)
		list = append(list, output{"wslmirror status", when, func(on screen) string {
			var b bytes.Buffer
			if err := printStatus(&b, on, s, at); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}})
	}
	idle := func(state status.State, s *status.Snapshot) {
		s.State, s.Table.Installed = state, false
		for i := range s.Directions {
			s.Directions[i].Active = false
		}
	}
	add("active", func(s *status.Snapshot, _ *surroundings) { s.State = status.Active })
	add("active, and who holds the ports that the kernel serves", func(s *status.Snapshot, _ *surroundings) {
		s.State = status.Active
		s.Ports = slices.Clone(s.Ports)
		for i, by := range []string{ports.ByEngine, ports.ByHolder, ports.ByNobody} {
			s.Ports[i].Path, s.Ports[i].Holder = status.PathKernel, by
		}
		s.Ports[2].HolderReason = "Windows refuses it: a Windows program (process 20480) listens on 127.0.0.1:8090"
	})
	add("active, path direct", func(s *status.Snapshot, _ *surroundings) {
		s.State, s.Path, s.Directions = status.Active, status.PathDirect, nil
		s.Rule = status.Rule{Packets: 1, Bytes: 60}
		direct, proxy := s.Ports[0], s.Ports[1]
		direct.Path = status.PathDirect
		proxy.Reason = "forwarding is off (net.ipv4.ip_forward)"
		s.Ports = []status.Port{direct, proxy}
	})
	add("active, on a kernel without nft_ct and nf_conntrack_netlink", func(s *status.Snapshot, _ *surroundings) {
		const reason = "this kernel lacks nft_ct or nft_masq"
		s.State, s.Directions = status.Active, slices.Clone(s.Directions)
		s.Directions[1] = status.Direction{Name: status.FromLinux, Reason: reason}
		s.Degraded = []status.Lack{
			{Feature: "localhost from Linux", Reason: reason, Fix: []string{"sudo modprobe -a nft_ct nft_masq", "wsl.exe --update   # if the module does not exist"}},
			{Feature: "reset of earlier connections", Reason: "this kernel lacks nf_conntrack_netlink", Fix: []string{"sudo modprobe -a nf_conntrack_netlink", "wsl.exe --update   # if the module does not exist"}},
		}
	})
	add("waiting: the mode is NAT", func(s *status.Snapshot, at *surroundings) {
		s.Directions = nil
		idle(status.Waiting, s)
		s.Interface = status.Interface{Name: "loopback0"}
		s.Mode, at.mode, at.link, at.wslLink = "none", "nat", false, false
	})
	add("waiting: --interface names another link", func(s *status.Snapshot, at *surroundings) {
		s.Directions, s.Ports = nil, nil
		idle(status.Waiting, s)
		s.Interface = status.Interface{Name: "loopbakc0"}
		s.Mode, at.link = "none", false
	})
	add("standby", func(s *status.Snapshot, _ *surroundings) { s.Directions = nil; idle(status.Standby, s) })
	add("stopped", func(s *status.Snapshot, at *surroundings) {
		*s = status.Snapshot{State: status.Stopped, Interface: s.Interface, Mode: s.Mode, Path: s.Path, Version: s.Version}
	})
	add("stopped: the kernel is too old", func(s *status.Snapshot, at *surroundings) {
		at.tooOld = nft.ErrNoOwner.Error() + "; this one is Linux 5.10.102.1-microsoft-standard-WSL2"
		*s = status.Snapshot{State: status.Stopped, Reason: at.tooOld, Interface: s.Interface, Mode: s.Mode, Path: s.Path, Version: s.Version}
	})
	add("stopped: another distribution's daemon serves", func(s *status.Snapshot, at *surroundings) {
		*s = status.Snapshot{State: status.Stopped, Reason: servedReason, Interface: s.Interface, Mode: s.Mode, Path: s.Path, Version: s.Version}
		at.elsewhere = true
	})
	add("stopped: a mistake in the options", func(s *status.Snapshot, at *surroundings) {
		at.unit.Active, at.unit.Result, at.unit.ExitStatus, at.unit.LastLine = "failed", "exit-code", exitConfig, "run has no flag --pth (did you mean --path?)"
		*s = status.Snapshot{State: status.Stopped, Reason: trouble(at.unit), Interface: s.Interface, Mode: s.Mode, Path: s.Path, Version: s.Version}
	})
	add("error", func(s *status.Snapshot, _ *surroundings) {
		s.State, s.Reason, s.Directions = status.Error, "read the chains of table ip nat: input/output error", nil
	})
	return list
}

// goldenPorts are the ports of a Linux with containers, and of a Windows.
func goldenPorts() portFacts {
	at := netip.MustParseAddrPort
	return portFacts{
		mode: "mirrored", version: "2.9.5.0", mirrored: true, shared: true,
		daemon: status.Snapshot{State: status.Active, Ports: []status.Port{
			{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: status.PathProxy},
			{Proto: "tcp", Port: 8090, Address: "0.0.0.0", Target: "10.4.0.2:80", Engine: "cni", Path: status.PathKernel},
		}},
		listeners: []ports.Listener{
			{Proto: "tcp", Addr: at("127.0.0.1:3000"), Program: "python3", PID: 4229},
			{Proto: "tcp", Addr: at("0.0.0.0:8080"), Program: "docker-proxy", PID: 4117},
			{Proto: "tcp", Addr: at("[::]:8080"), OnlyV6: true, Program: "docker-proxy", PID: 4123},
			{Proto: "tcp", Addr: at("0.0.0.0:9001")},
		},
		block: ports.Block{
			Range: status.PortRange{First: 60700, Last: 64795}, Usable: 4096, FirstPass: 2048, TCP: 13, UDP: 1, Containers: true,
			Worst: ports.Load{Proto: "tcp", Destination: at("192.0.2.1:443"), Used: 12, Of: 4096}, Windows: status.PortRange{First: 60700, Last: 64795},
		},
		windows: map[string]windows.Ports{
			"tcp": {
				Excluded: []windows.Range{{First: 80, Last: 80}, {First: 1628, Last: 1727}, {First: 2222, Last: 2222, Administered: true}, {First: 5357, Last: 5357}, {First: 50000, Last: 50059, Administered: true}},
				Dynamic:  windows.Range{First: 49152, Last: 65535},
				Listeners: []windows.Listener{
					{Addr: at("0.0.0.0:135"), PID: 1104}, {Addr: at("0.0.0.0:445"), PID: 4}, {Addr: at("127.0.0.1:9001"), PID: 20480},
				},
			},
			"udp": {Dynamic: windows.Range{First: 49152, Last: 65535}, Listeners: []windows.Listener{{Addr: at("0.0.0.0:5353"), PID: 2000}}},
		},
	}
}

func portsOutputs() (list []output) {
	f := goldenPorts()
	silent := f
	slow := func(program string) error { return &windows.Error{Program: program, Problem: windows.Slow} }
	unasked := windows.Ports{ExcludedErr: slow("netsh.exe"), DynamicErr: slow("netsh.exe"), ListenersErr: slow("netstat.exe")}
	silent.windows = map[string]windows.Ports{"tcp": unasked, "udp": unasked}

	list = []output{
		{"wslmirror ports", "with Windows", f.text},
		{"wslmirror ports", "Windows does not answer", silent.text},
	}
	explain := func(when string, f portFacts, port uint16) {
		list = append(list, output{fmt.Sprintf("wslmirror ports explain %d", port), when, func(on screen) string {
			return verdictText(on, ports.Explain(f.of("tcp"), port))
		}})
	}
	explain("free", f, 3001)
	explain("free, and in the block", f, 60800)
	explain("one's own container has it", f, 8080)
	explain("a container has it, and Windows does not know", f, 8090)
	explain("one's own program has it", f, 3000)
	explain("a program of Windows has it, too", f, 9001)
	explain("reserved in Windows", f, 1650)
	explain("Windows does not answer", silent, 3001)
	explain("Windows does not answer, one's own container has it", silent, 8080)
	free := func(when string, f portFacts) {
		list = append(list, output{"wslmirror ports free 3", when, func(on screen) string { return f.free("tcp", 8080, 3).text(on) }})
	}
	free("with Windows", f)
	free("Windows does not answer", silent)
	return list
}

// goldenReport has a check of each verdict.
func goldenReport() doctor.Report {
	return report(
		doctor.Check{Name: "ip-rules", Verdict: doctor.Fault, Seen: `localhost from Linux: the rule "0: from all ipproto tcp lookup main" is ahead of WSL's rules`,
			Why: "WSL's rules send TCP and UDP for localhost to Windows and back. A rule ahead of them sends these packets elsewhere.",
			Do:  "sudo ip rule add pref 3 from all ipproto tcp lookup main\nsudo ip rule del pref 0 from all ipproto tcp lookup main"},
		doctor.Check{Name: "port-headroom", Verdict: doctor.Warning, Seen: "8 of 10 ports (80 %) are in use to 192.0.2.1:7000", Link: "https://github.com/microsoft/WSL/issues/11450"},
		doctor.Check{Name: "table", Verdict: doctor.Unknown, Seen: "could not check the rules: only root can read the ruleset"},
		doctor.Check{Name: "wsl", Verdict: doctor.OK, Seen: "kernel 6.18.44, networking mode mirrored"},
		doctor.Check{Name: "table-127", Verdict: doctor.OK, Seen: "127.0.0.1 via 169.254.73.249 on loopback0"},
		doctor.Check{Name: "podman", Verdict: doctor.NotApplicable, Seen: "none"},
	)
}

// goldenLive has a packet that passes where the forecast has it dropped.
func goldenLive() liveReport {
	dropped := printed[0].Hops[5]
	return liveReport{Seconds: 2.5, Missed: 7, Clients: []trace.Live{
		{From: trace.Windows, Requests: 3, Hops: []trace.LiveHop{
			{Hop: printed[0].Hops[0], Packets: 3, Forecast: &printed[0].Hops[0]},
			{Hop: trace.Hop{Kind: trace.InChain, Table: "inet fw", Base: "in", Chain: "in", Verdict: "pass", Sure: true}, Packets: 3, Forecast: &dropped, Differs: true},
			{Hop: trace.Hop{Kind: trace.AtSocket, Verdict: "deliver", To: "127.0.0.1:8080", Sure: true}, Packets: 3},
		}},
		{From: trace.Proxy, Agrees: true, Hops: []trace.LiveHop{}},
	}}
}

func traceOutputs(t *testing.T) []output {
	port := ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}
	traces := slices.Clone(printed)
	for i := range traces {
		traces[i].Hops = slices.Clone(traces[i].Hops)
		for j := range traces[i].Hops {
			if h := &traces[i].Hops[j]; h.Program == labtest.Hostile {
				h.Program = "nginx"
			}
		}
	}
	show := func(print func(*bytes.Buffer, screen) error) func(screen) string {
		return func(on screen) string {
			var b bytes.Buffer
			if err := print(&b, on); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
	}
	return []output{
		{"sudo wslmirror trace 8080", "a firewall drops it", show(func(b *bytes.Buffer, on screen) error { return printTraces(b, on, port, traces) })},
		{"sudo wslmirror trace 8080 --live", "packets differ from the forecast", show(func(b *bytes.Buffer, on screen) error { return printLive(b, on, port, goldenLive()) })},
		{"sudo wslmirror trace 8080 --live", "no packet came", show(func(b *bytes.Buffer, on screen) error {
			return printLive(b, on, port, liveReport{Seconds: 10, Clients: []trace.Live{{From: trace.Windows}, {From: trace.Linux}}})
		})},
	}
}

func logOutputs() []output {
	at := goldenNow
	return []output{{"wslmirror log --since 1h", "notices, a warning and an error", func(on screen) string {
		return event{at, 6, "8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy"}.show(on) +
			event{at, 4, "restored parts of WSL's setup that another program had removed: ip rules: 9"}.show(on) +
			event{at.Add(time.Second), 3, "could not read or change the kernel's state, retrying: read the chains of table ip nat: input/output error"}.show(on)
	}}}
}

func doctorOutputs(t *testing.T) []output {
	r := goldenReport()
	outside := report(
		doctor.Check{Name: "port-tracker", Verdict: doctor.OK, Seen: "bind() works"},
		doctor.Check{Name: "wsl", Verdict: doctor.NotApplicable, Seen: "this is not WSL (kernel 6.1.0, no wslinfo)"},
		doctor.Check{Name: "loopback0", Verdict: doctor.NotApplicable},
	)
	show := func(r doctor.Report) func(screen) string {
		return func(on screen) string {
			var b bytes.Buffer
			if err := printReport(&b, on, r); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
	}
	return []output{{"wslmirror doctor", "a fault", show(r)}, {"wslmirror doctor", "outside WSL", show(outside)}}
}
