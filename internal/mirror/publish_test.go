package mirror

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// The log contains what the daemon has done, once, and at level debug also why.
func TestPublishLogs(t *testing.T) {
	logger, hook := test.NewNullLogger()
	logger.SetOutput(io.Discard)
	logger.SetLevel(logrus.DebugLevel)
	d := newDaemon(Config{Interface: "loopback0", Log: logger, Publish: func(status.Snapshot) error { return nil }}, netwatch.NewWatcher(), nil)

	host := netwatch.Link{Name: "loopback0", Index: 3, Up: true}
	web := ruleset.Published{
		Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}, Addr: netip.IPv4Unspecified(),
		Engine: "docker", To: netip.MustParseAddrPort("172.17.0.2:80"),
	}
	look := func(published ...ruleset.Published) change {
		obs := Observed{Links: []netwatch.Link{host, {Name: "docker0", Index: 4, Kind: "bridge", Up: true}}, Host: host, Mode: netwatch.Mirrored}
		obs.Rules.Published = published
		return change{obs: obs, want: decide(obs, Policy{}), seen: true, serves: true}
	}
	standby := look(web)
	standby.obs.Table = nft.OurTable{Present: true, Owner: 77}
	standby.want = decide(standby.obs, Policy{})
	kernel := web
	kernel.EngineServed = true

	for _, step := range []struct {
		name  string
		c     change
		err   error
		info  []string
		debug string
	}{
		{"starts", look(), nil, []string{"rules are installed for packets that arrive on loopback0"},
			"decided to be active, because loopback0 exists (index 3, mode mirrored) and no other process owns the table; guarded links: docker0"},
		{"nothing", look(), nil, nil, "decided to be active"},
		{"published", look(web), nil, []string{"8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy"}, "sent to the listener in Linux: 8080/tcp"},
		{"fails", change{}, io.ErrUnexpectedEOF, []string{"could not read or change the kernel's state, retrying"}, "could not read the kernel's state, so nothing was decided"},
		{"fails again", change{}, io.ErrUnexpectedEOF, nil, "could not read the kernel's state"},
		{"works again", look(web), nil, []string{"rules are installed for packets that arrive on loopback0"}, "decided to be active"},
		{"another path", look(kernel), nil, []string{"8080/tcp uses the path kernel, no longer proxy"}, "left to the engine's own rules: 8080/tcp"},
		{"withdrawn", look(), nil, []string{"8080/tcp on 0.0.0.0 is no longer published by docker"}, "decided to be active"},
		{"standby", standby, nil, []string{"another wslmirror in this VM is active; this one takes over if it stops"}, "decided on standby, because another process (netlink port 77) owns the table"},
	} {
		hook.Reset()
		if err := d.publish(step.c, step.err); err != nil {
			t.Fatal(err)
		}
		var info []string
		var debug string
		for _, e := range hook.AllEntries() {
			if e.Level == logrus.DebugLevel {
				debug += e.Message
			} else {
				info = append(info, e.Message)
			}
		}
		if !slices.Equal(info, step.info) || !strings.Contains(debug, step.debug) {
			t.Errorf("%s: logs %q, want %q\nat debug %q, want %q", step.name, info, step.info, debug, step.debug)
		}
	}
}
