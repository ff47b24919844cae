package ports

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/internal/windows"
)

func listener(proto, addr, program string) Listener {
	return Listener{Proto: proto, Addr: netip.MustParseAddrPort(addr), Program: program, PID: 42}
}

// A mirrored network with some of everything.
func facts() Facts {
	return Facts{
		Proto: "tcp", Mirrored: true, Version: "2.9.5.0",
		Block: Block{Range: between(60700, 60999)},
		Listeners: []Listener{
			listener("tcp", "0.0.0.0:8080", "docker-proxy"),
			listener("tcp", "[::1]:8085", "node"),
			listener("tcp", "[::]:8086", "node"),
			listener("udp", "0.0.0.0:5353", "avahi"),
			{Proto: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:8087"), Bound: true},
		},
		Published: []status.Port{
			{Proto: "tcp", Port: 8080, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: "proxy"},
			{Proto: "tcp", Port: 8090, Address: "0.0.0.0", Target: "10.4.0.2:80", Engine: "cni", Path: "kernel"},
		},
		Windows: windows.Ports{
			Excluded: []windows.Range{
				{First: 80, Last: 80}, {First: 1628, Last: 1727}, {First: 1700, Last: 1700, Administered: true},
				{First: 2222, Last: 2222, Administered: true}, {First: 50000, Last: 50059, Administered: true},
			},
			Dynamic: windows.Range{First: 49152, Last: 65535},
			Listeners: []windows.Listener{
				{Addr: netip.MustParseAddrPort("0.0.0.0:135"), PID: 1104},
				{Addr: netip.MustParseAddrPort("127.0.0.1:9001"), PID: 20480},
				{Addr: netip.MustParseAddrPort("[fe80::1]:7000"), PID: 20480},
			},
		},
	}
}

func TestExplain(t *testing.T) {
	const add = "netsh int ipv4 add excludedportrange protocol=tcp startport=%d numberofports=1 store=persistent"
	exclusion := func(port string) string { return strings.Replace(add, "%d", port, 1) }
	nat := func(f *Facts) { f.Mirrored = false }
	// Windows also lists WSL's own block.
	reserved := func(f *Facts) {
		f.Windows.Excluded = append(f.Windows.Excluded, windows.Range{First: 60700, Last: 60999})
	}
	widened := func(f *Facts) { f.Block.Range, f.Block.Windows = between(60000, 62000), between(60700, 60799) }
	listens := func(f *Facts, ports ...uint16) {
		for _, p := range ports {
			f.Windows.Listeners = append(f.Windows.Listeners, windows.Listener{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), p), PID: 7})
		}
	}
	dnsTaken := func(f *Facts) {
		listens(f, 53)
		f.Windows.Excluded = append(f.Windows.Excluded, windows.Range{First: 53, Last: 53})
	}
	multicast := func(f *Facts) {
		f.Proto, f.Listeners = "udp", nil
		listens(f, 5353, 5355)
	}
	slow := func(program string) error { return &windows.Error{Program: program, Problem: windows.Slow} }
	silent := func(f *Facts) {
		f.Windows = windows.Ports{ExcludedErr: slow("netsh.exe"), DynamicErr: slow("netsh.exe"), ListenersErr: slow("netstat.exe")}
	}
	tests := map[string]struct {
		port    uint16
		change  func(*Facts)
		state   State
		says    string // in the reasons and notes
		linux   string
		windows string // all lines, joined with "; "
		next    uint16
	}{
		"free":                   {port: 3000, state: Free, next: 3001},
		"published, has a proxy": {port: 8080, state: Taken, says: "docker publishes it on 0.0.0.0, for the container at 172.17.0.2:80; docker-proxy (process 42) listens on 0.0.0.0:8080", linux: "docker ps --filter publish=8080/tcp; ps -fp 42", next: 8081},
		"published, no listener": {port: 8090, state: Taken, says: "cni publishes it on 0.0.0.0, for the container at 10.4.0.2:80; no program in Linux listens on it", next: 8091},
		"IPv6 only":              {port: 8085, state: Free, says: "node (process 42) listens on [::1]:8085: this is IPv6, which WSL does not mirror; another program can use the port for IPv4; a program that listens on [::], as Node, Go and Java do by default, cannot use it", next: 8088},
		"next to IPv6":           {port: 8084, state: Free, next: 8088},
		"bound, published": {port: 8087, change: func(f *Facts) { f.Published[0].Port = 8087 }, state: Taken, says: "docker publishes it on 0.0.0.0",
			linux: "docker ps --filter publish=8087/tcp; sudo ss -tnap 'sport = :8087'", next: 8088},
		"both families":          {port: 8086, state: Taken, says: "node (process 42) listens on [::]:8086", linux: "ps -fp 42", next: 8088},
		"bound, nameless":        {port: 8087, state: Taken, says: "a program has bound 0.0.0.0:8087 and does not listen, so ss does not show it", linux: "sudo ss -tnap 'sport = :8087'", next: 8088},
		"of the other protocol":  {port: 5353, state: Free, next: 5354},
		"UDP":                    {port: 5353, change: func(f *Facts) { f.Proto = "udp" }, state: Taken, says: "avahi", linux: "ps -fp 42", next: 5354},
		"in the block":           {port: 60800, state: Free, says: "gets 10013 (WSAEACCES), because the block contains it", windows: "wsl --shutdown; " + exclusion("60800"), next: 49151},
		"in the block, and seen": {port: 60800, change: reserved, state: Free, says: "any of them may use it", windows: "wsl --shutdown; " + exclusion("60800"), next: 49151},
		"in the widened block": {port: 60800, change: func(f *Facts) { reserved(f); f.Block.Windows = between(50000, 50299) }, state: Blocked,
			says: "has reserved 60700-60999", windows: "net stop winnat; " + exclusion("60800") + "; net start winnat", next: 49151},
		"beside the reserved block": {port: 60800, change: widened, state: Free, says: "range 60000-62000 of Linux's own connections, but not in the block 60700-60799, which WSL has reserved", windows: exclusion("60800"), next: 49151},
		"in the reserved block":     {port: 60750, change: widened, state: Free, says: "block 60700-60799, which WSL has reserved in Windows for Linux's own connections; any of them may use it", windows: "wsl --shutdown; " + exclusion("60750"), next: 49151},
		"block unknown":             {port: 60800, change: func(f *Facts) { f.Block.Last = 65000 }, state: Free, says: "range 60700-65000 of Linux's own connections; any of them may use it", windows: exclusion("60800"), next: 49151},
		"Windows has DNS":           {port: 53, change: dnsTaken, state: Free, says: "listens on 0.0.0.0:53, and WSL lets Linux use this port", next: 54},
		"DNS, NAT":                  {port: 53, change: func(f *Facts) { dnsTaken(f); nat(f) }, state: Taken, says: "a Windows program", windows: `tasklist /fi "PID eq 7"; net stop winnat; ` + exclusion("53") + "; net start winnat", next: 54},
		"mDNS":                      {port: 5353, change: multicast, state: Free, says: "listens on 0.0.0.0:5353, and WSL lets Linux use this port too", next: 5354},
		"LLMNR":                     {port: 5355, change: multicast, state: Free, says: "use this port too", next: 5356},
		"mDNS, TCP":                 {port: 5353, change: func(f *Facts) { multicast(f); f.Proto = "tcp" }, state: Taken, says: "a Windows program", windows: `tasklist /fi "PID eq 7"`, next: 5354},
		"in the block, NAT":         {port: 60800, change: nat, state: Free, says: "range 60700-60999", windows: exclusion("60800"), next: 49151},
		"reserved":                  {port: 1650, state: Blocked, says: "has reserved 1628-1727, so no other program can bind it", windows: "net stop winnat; " + exclusion("1650") + "; net start winnat", next: 1728},
		"reserved, one port":        {port: 80, state: Blocked, says: "reserved 80, so", windows: "net stop winnat; " + exclusion("80") + "; net start winnat", next: 81},
		"reserved and excluded":     {port: 1700, state: Blocked, says: "an administrator has excluded 1700", windows: "net stop winnat; net start winnat", next: 1728},
		"excluded":                  {port: 2222, state: Free, says: "can be bound", next: 2223},
		"excluded, in dynamic":      {port: 50010, state: Free, says: "excluded 50000-50059", next: 49151},
		"in Windows' range":         {port: 55000, state: Free, says: "any Windows program may use it", windows: exclusion("55000"), next: 49151},
		"refused by this WSL":       {port: 55000, change: func(f *Facts) { f.Version = "2.9.4.0" }, state: Blocked, says: "WSL 2.9.4.0 does not let Linux bind", linux: "wsl.exe --update; wsl.exe --shutdown", next: 49151},
		"refused, excluded":         {port: 50010, change: func(f *Facts) { f.Version = "2.8.7" }, state: Blocked, says: "WSL 2.8.7 does not let Linux bind", linux: "wsl.exe --update; wsl.exe --shutdown", next: 49151},
		"perhaps refused":           {port: 55000, change: func(f *Facts) { f.Version = "" }, state: Free, says: "2.8.7 to 2.9.4 does not let Linux bind", windows: exclusion("55000"), next: 49151},
		"leftover range": {port: 8081, change: func(f *Facts) { f.Windows.Dynamic = windows.Range{First: 1024, Last: 15000} }, state: Free,
			says: "dynamic range 1024-15000", windows: "netsh int ipv4 set dynamicportrange tcp startport=49152 numberofports=16384; " + exclusion("8081"), next: 15001},
		"Windows listens": {port: 9001, state: Taken, says: "process 20480) listens on 127.0.0.1:9001", windows: `tasklist /fi "PID eq 20480"`, next: 9002},
		"Windows, IPv6":   {port: 7000, state: Free, next: 7001},
		"Windows' relay":  {port: 8080, change: func(f *Facts) { nat(f); f.Windows.Listeners[0].Addr = netip.MustParseAddrPort("127.0.0.1:8080") }, state: Taken, says: "docker-proxy", linux: "docker ps --filter publish=8080/tcp; ps -fp 42", next: 8081},
		"privileged":      {port: 443, state: Free, says: "needs root", next: 444},
		"never works":     {port: 5004, state: Blocked, says: "WSL#41135", next: 5005},
		"works in NAT":    {port: 5004, change: nat, state: Free, next: 5005},
		"the last":        {port: 65535, change: func(f *Facts) { f.Windows = windows.Ports{} }, state: Free, next: 65534},
		"in the block, taken": {port: 60800, change: func(f *Facts) { f.Listeners = append(f.Listeners, listener("tcp", "0.0.0.0:60800", "node")) }, state: Taken,
			says: "node (process 42) listens on 0.0.0.0:60800", linux: "ps -fp 42", next: 49151},
		"Windows silent":             {port: 3000, change: silent, state: Unknown, says: "Windows could not be asked whether it keeps this port: no answer in time from netsh.exe", next: 3001},
		"Windows silent, privileged": {port: 443, change: silent, state: Unknown, says: "needs root", next: 444},
		"Windows silent, ours":       {port: 8080, change: silent, state: Taken, says: "Windows could not be asked: no answer in time", linux: "docker ps --filter publish=8080/tcp; ps -fp 42", next: 8081},
		"Windows silent, in block":   {port: 60800, change: silent, state: Free, says: "any of them may use it", windows: "wsl --shutdown; " + exclusion("60800"), next: 61000},
		"Windows silent, DNS":        {port: 53, change: silent, state: Free, says: "needs root", next: 54},
		"listeners unknown":          {port: 3000, change: func(f *Facts) { f.Windows.ListenersErr = slow("netstat.exe") }, state: Unknown, says: "no answer in time from netstat.exe", next: 3001},
		"listeners unknown, reserved": {port: 1650, change: func(f *Facts) { f.Windows.ListenersErr = slow("netstat.exe") }, state: Blocked, says: "reserved 1628-1727",
			windows: "net stop winnat; " + exclusion("1650") + "; net start winnat", next: 1728},
		"nothing known at all": {port: 8080, change: func(f *Facts) { *f = Facts{Proto: "tcp"} }, state: Free, next: 8081},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := facts()
			if test.change != nil {
				test.change(&f)
			}
			v := Explain(f, test.port)
			said := strings.Join(slices.Concat(v.Reasons, v.Notes), "; ")
			if v.Port != test.port || v.Proto != f.Proto || v.State != test.state || v.Next != test.next ||
				!strings.Contains(said, test.says) || (test.state == Free) != (len(v.Reasons) == 0) {
				t.Errorf("%+v\nwant %s, next %d, with %q", v, test.state, test.next, test.says)
			}
			if test.says == "" && said != "" {
				t.Errorf("says %q", said)
			}
			if got := strings.Join(v.Linux, "; "); got != test.linux {
				t.Errorf("for Linux %q, want %q", got, test.linux)
			}
			if got := strings.Join(v.Windows, "; "); got != test.windows {
				t.Errorf("for Windows %q, want %q", got, test.windows)
			}
		})
	}
}

// A port is fine if a Linux program or container uses it, Windows learns about it, and
// Windows does not use it too.
func TestInUse(t *testing.T) {
	f := facts()
	f.Listeners = append(f.Listeners, listener("tcp", "0.0.0.0:9001", "node"), listener("tcp", "0.0.0.0:5004", "node"))
	for port, want := range map[uint16]bool{8080: true, 8086: true, 8087: true, 8090: false, 9001: false, 5004: false, 135: false, 3000: false} {
		if v := Explain(f, port); v.InUse != want {
			t.Errorf("%+v, want %v", v, want)
		}
	}
}

func TestFree(t *testing.T) {
	f := facts()
	for _, test := range []struct {
		from uint16
		n    int
		want []uint16
	}{
		{8080, 1, []uint16{8081}},
		{8080, 5, []uint16{8081, 8082, 8083, 8084, 8088}}, // 8085 is held for IPv6
		{1628, 1, []uint16{1728}},
		{5003, 2, []uint16{5003, 5005}},
		{49150, 3, []uint16{49150, 49151}}, // the rest is Windows' dynamic range
		{65535, 1, nil},
	} {
		if got := f.Free(test.from, test.n); !slices.Equal(got, test.want) {
			t.Errorf("%d from %d: %d, want %d", test.n, test.from, got, test.want)
		}
	}
	if !f.Asked() {
		t.Error("Windows was asked")
	}
	f.Windows.ListenersErr = errors.New("silent")
	if f.Asked() {
		t.Error("Windows was not asked")
	}
}

// The recommended port is free, for every port.
func TestNextIsFree(t *testing.T) {
	f := facts()
	for port := 1; port <= 65535; port += 991 {
		v := Explain(f, uint16(port))
		if v.Next == 0 || v.Next == uint16(port) || Explain(f, v.Next).State != Free {
			t.Fatalf("instead of %d: %d", port, v.Next)
		}
	}
	f.Windows.Excluded = []windows.Range{{First: 0, Last: 65535}}
	if v := Explain(f, 8080); v.Next != 0 || v.State != Taken {
		t.Errorf("where nothing is free: %+v", v)
	}
}

func TestDeniesDynamic(t *testing.T) {
	for version, want := range map[string][2]bool{
		"2.8.6.0": {false, true}, "2.8.7.0": {true, true}, "2.9.4": {true, true}, "2.9.5.0": {false, true},
		"2.10.0.0": {false, true}, "3.0.0": {false, true}, "": {}, "mirrored": {}, "2.9": {}, "2.9.x.0": {}, "2.-9.1.0": {}, "2.9999.4.0": {},
	} {
		if denied, known := DeniesDynamic(version); denied != want[0] || known != want[1] {
			t.Errorf("%q: %v, %v", version, denied, known)
		}
	}
}
