package status

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestChanges(t *testing.T) {
	port := func(number uint16, path string) Port {
		return Port{Proto: "tcp", Port: number, Address: "0.0.0.0", Target: "172.17.0.2:80", Engine: "docker", Path: path}
	}
	with := func(p Port, change func(*Port)) Port {
		change(&p)
		return p
	}
	active := func(ports ...Port) Snapshot { return Snapshot{State: Active, Ports: ports} }
	containers := func(reason string, ports ...string) Snapshot {
		return Snapshot{State: Active, Directions: []Direction{{Name: FromWindows}, {Name: ContainersToWindows, Active: true, Reason: reason, Ports: ports}}}
	}
	var many []Port
	for i := range uint16(100) {
		many = append(many, port(8000+i, PathProxy))
	}
	web := port(8080, PathProxy)
	tests := map[string]struct {
		last, next Snapshot
		want       []string
	}{
		"the same": {active(web), active(web), nil},
		"published": {active(), active(web),
			[]string{"8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy"}},
		"published, not direct": {active(), active(with(web, func(p *Port) { p.Reason = "forwarding is off" })),
			[]string{"8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy (forwarding is off)"}},
		"published, target computed": {active(), active(with(web, func(p *Port) { p.Target, p.Engine = "", "ip nat X" })),
			[]string{"8080/tcp is published by ip nat X on 0.0.0.0 for a target that its rule computes, path proxy"}},
		"withdrawn": {active(web, port(53, PathKernel)), active(web),
			[]string{"53/tcp on 0.0.0.0 is no longer published by docker"}},
		"another path": {active(web), active(port(8080, PathDirect)),
			[]string{"8080/tcp uses the path direct, no longer proxy"}},
		"another path, and why": {active(port(8080, PathDirect)), active(with(web, func(p *Port) { p.Reason = "its bridge could not be opened" })),
			[]string{"8080/tcp uses the path proxy, no longer direct (its bridge could not be opened)"}},
		"the same path for another reason": {active(web), active(with(web, func(p *Port) { p.Reason = "forwarding is off" })),
			[]string{"8080/tcp keeps the path proxy (forwarding is off)"}},
		"another container": {active(web), active(with(web, func(p *Port) { p.Target = "172.17.0.3:80" })),
			[]string{"8080/tcp is forwarded to 172.17.0.3:80, no longer to 172.17.0.2:80"}},
		"another engine and path": {active(web), active(with(port(8080, PathKernel), func(p *Port) { p.Engine = "podman" })),
			[]string{"8080/tcp is published by podman, no longer by docker; uses the path kernel, no longer proxy"}},
		"two addresses": {active(web), active(web, with(web, func(p *Port) { p.Address = "127.0.0.1" })),
			[]string{"8080/tcp is published by docker on 127.0.0.1 for 172.17.0.2:80, path proxy"}},
		"a start with many": {Snapshot{}, active(many...),
			[]string{"100 ports are published: 8000/tcp, 8001/tcp, 8002/tcp, 8003/tcp and 96 more"}},
		"an engine stops": {active(many...), active(many[0]),
			[]string{"99 ports are no longer published: 8001/tcp, 8002/tcp, 8003/tcp, 8004/tcp and 95 more"}},
		"takes over":   {Snapshot{State: Standby, Ports: many}, active(web), []string{"8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy"}},
		"still fails":  {active(web), Snapshot{State: Error}, nil},
		"failed":       {Snapshot{State: Error, Ports: []Port{web}}, active(web), nil},
		"waits":        {active(web), Snapshot{State: Waiting, Ports: many}, nil},
		"to Windows":   {containers(NoPorts), containers("", "11434/tcp", "53/udp"), []string{"containers can now reach 11434/tcp on Windows' 127.0.0.1", "containers can now reach 53/udp on Windows' 127.0.0.1"}},
		"Linux has it": {containers("", "11434/tcp"), containers("Linux itself serves 11434/tcp"), []string{"containers can no longer reach 11434/tcp on Windows' 127.0.0.1 (Linux itself serves 11434/tcp)"}},
		"many to Windows": {Snapshot{}, containers("", strings.Fields("1/tcp 2/tcp 3/tcp 4/tcp 5/tcp")...),
			[]string{"5 ports on Windows' 127.0.0.1 are open to containers: 1/tcp, 2/tcp, 3/tcp, 4/tcp and 1 more"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Changes(test.last, test.next); !slices.Equal(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// On an interface other than loopback0, the sentence does not claim what holds only for
// WSL's.
func TestSentence(t *testing.T) {
	for _, test := range []struct {
		s    Snapshot
		want string
	}{
		{Snapshot{State: Active, Interface: Interface{Name: "eth7"}}, "active: rules are installed for packets that arrive on eth7"},
		{Snapshot{State: Waiting, Interface: Interface{Name: "loopback0"}}, "waiting: there is no loopback0; it exists only in the modes with a shared localhost (mirrored, consomme)"},
		{Snapshot{State: Waiting, Interface: Interface{Name: "eth7"}}, "waiting: there is no eth7, which --interface names; WSL's own is loopback0"},
		{Snapshot{State: Stopped}, "stopped: wslmirror is not running"},
		{Snapshot{State: Stopped, Reason: "the service has failed"}, "stopped: the service has failed"},
		{Snapshot{State: Error, Reason: "no"}, "error: no"},
	} {
		if got := fmt.Sprint(test.s); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
