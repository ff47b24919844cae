package field

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/doctor"
	"github.com/wslmirror/wslmirror/internal/text"
	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft/ruleset"
)

// What WSL damages when it adds loopback0 again is told line by line: rules that are
// there twice, and rules that are gone. Rules of others are not WSL's.
func TestSetupTellsDoubledRules(t *testing.T) {
	o := &doctor.Observation{}
	n := &o.Net.Value
	n.Mode = netwatch.Consomme
	rule := func(pref uint32, iif string, proto uint8, table uint32) netwatch.Rule {
		return netwatch.Rule{Priority: pref, Iif: iif, IPProto: proto, Table: table, Action: unix.FR_ACT_TO_TBL, SuppressPrefix: -1}
	}
	n.Rules = []netwatch.Rule{
		rule(0, loopback0, unix.IPPROTO_UDP, unix.RT_TABLE_LOCAL),
		rule(1, "", unix.IPPROTO_TCP, 127), rule(1, "", unix.IPPROTO_UDP, 127),
		rule(1, "", unix.IPPROTO_TCP, 128), rule(1, "", unix.IPPROTO_UDP, 128),
		rule(2, "", 0, unix.RT_TABLE_LOCAL), rule(2, "", 0, unix.RT_TABLE_LOCAL),
		rule(5270, "", 0, 52), // of a VPN
		rule(32766, "", 0, unix.RT_TABLE_MAIN), rule(32767, "", 0, unix.RT_TABLE_DEFAULT),
	}
	s := compareSetup(o)
	missing := slices.Contains(s.Missing, "ip rule 0: from all iif loopback0 ipproto tcp lookup local")
	doubled := slices.Contains(s.Unexpected, "ip rule 2: from all lookup local")
	if !missing || !doubled || !slices.Equal(s.Beside, []string{"ip rule 5270: from all lookup 52"}) {
		t.Errorf("%+v", s)
	}
}

// The expectations for published ports are those of the table in docs/bench.md.
func TestPublished(t *testing.T) {
	local, everywhere := ruleset.Localhost, netip.IPv4Unspecified()
	for _, test := range []struct {
		name            string
		engine, version string
		on              netip.Addr
		served, passes  bool
		windows, linux  Outcomes
	}{
		{"docker-20.10", "docker", "20.10.24", everywhere, false, false, fails, answers},
		{"docker-20.10", "docker", "20.10.24", local, false, false, fails, answers},
		{"docker-20.10-noproxy", "docker", "20.10.24", everywhere, true, false, answers, fails},
		{"docker-iptables", "docker", "29.0.0", local, false, true, answers, answers},
		{"docker-iptables, loopback0 late", "docker", "29.0.0", everywhere, false, false, fails, answers},
		{"docker-iptables, loopback0 late", "docker", "29.0.0", local, false, false, fails, fails},
		{"docker-iptables-noproxy", "docker", "29.0.0", everywhere, true, false, answers, fails},
		{"docker-iptables-noproxy", "docker", "29.0.0", local, true, false, nil, fails}, // late or not
		{"podman-netavark", "podman", "5.4.2", local, true, false, answers, fails},
	} {
		s := Site{Passes: test.passes, Published: []ruleset.Published{{
			Port: ruleset.Port{Proto: unix.IPPROTO_TCP, Number: 8080}, EngineServed: test.served,
		}}}
		e, c := Engine{Name: test.engine, Version: test.version}, Container{On: test.on, Port: 8080}
		for from, want := range map[Client]Outcomes{Windows: test.windows, Linux: test.linux} {
			if got := s.published(e, c, "TCP", from); !slices.Equal(got, want) {
				t.Errorf("%s on %s, from %s: %q, want %q", test.name, test.on, from, got, want)
			}
		}
		if got := s.published(e, c, "UDP", Windows); got != nil {
			t.Errorf("%s: a port that is not in the ruleset: %q", test.name, got)
		}
	}
}

// A container must not reach a server of Windows that --to-windows does not name. An
// answer is a difference, with wslmirror and without.
func TestHiddenServer(t *testing.T) {
	s := Site{
		Mode: netwatch.Mirrored, Hidden: windowsPorts{9102, 9102},
		Engines: []Engine{{Name: "docker", Containers: []Container{{On: netip.IPv4Unspecified(), Port: 8080, Gateway: netip.MustParseAddr("172.17.0.1")}}}},
	}
	n := 0
	for _, q := range s.plan() {
		if q.At.Port() != 9102 {
			continue
		}
		n++
		for _, bench := range q.Bench {
			if (Answer{Outcome: Answers, Bench: bench}).Verdict() != Differs || (Answer{Outcome: Refused, Bench: bench}).Verdict() != Agrees {
				t.Errorf("%s: the bench shows %q", q, bench)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d questions", n)
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		a    Answer
		want Verdict
	}{
		{Answer{Outcome: NoAnswer, Bench: fails}, Agrees},
		{Answer{Outcome: ByAnother, Bench: answers}, Differs},
		{Answer{Outcome: Failed, Bench: fails}, Differs},
		{Answer{Outcome: Refused, Bench: Outcomes{Late}}, Differs},
		{Answer{Outcome: NotChecked, Bench: answers}, Unknown},
		{Answer{Outcome: Answers}, Unknown},
	} {
		if got := test.a.Verdict(); got != test.want {
			t.Errorf("%+v: %v, want %v", test.a, got, test.want)
		}
	}
}

func TestWindowsOutcome(t *testing.T) {
	for _, test := range []struct {
		outcome, detail string
		took            time.Duration
		want            Outcome
	}{
		{"answers", "Linux", 0, Answers},
		{"bound", "-", 0, Bound},
		{"error", "AccessDenied", 0, InUse},
		{"error", "TimedOut", 0, NoAnswer},
		{"error", "ConnectionReset", 0, Refused},
		{"error", "ConnectionRefused", 2 * time.Second, Late},
		{"error", "NoBufferSpaceAvailable", 0, Failed},
		{"failed", "PSNotSupportedException", 0, Failed}, // the constrained language mode
	} {
		if got, _ := windowsOutcome(test.outcome, test.detail, test.took); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.outcome, test.detail, got, test.want)
		}
	}
}

// What is private is replaced, by the same words in both forms, and versions are kept.
func TestRedacted(t *testing.T) {
	r := &Report{WSL: "2.9.5.0", Windows: "10.0.26100.4061"}
	r.Rows = []Row{{
		Question: Question{From: Linux, To: "docker, by the LAN address", Proto: "TCP", At: netip.MustParseAddrPort("8.8.4.4:18080")},
		Without:  Answer{Outcome: Failed, Detail: "open /home/jdoe/x by 8.8.4.4", Bench: answers},
	}}
	r.note("containers of docker", errors.New("no rights for jdoe\x1b[2J on deskpc"))
	r.Judge()
	redactor := text.NewRedactor()
	redactor.Add("user", "jdoe")
	redactor.Add("host", "deskpc")
	markdown, asJSON, err := r.Redacted(redactor)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{markdown, asJSON} {
		for _, private := range []string{"jdoe", "deskpc", "8.8.4.4", "\x1b"} {
			if strings.Contains(form, private) {
				t.Errorf("%q is in\n%s", private, form)
			}
		}
		for _, want := range []string{"2.9.5.0", "10.0.26100.4061", "<user-1>", "<address-1>"} {
			if !strings.Contains(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(form), want) {
				t.Errorf("%q is not in\n%s", want, form)
			}
		}
	}
	if !strings.Contains(markdown, "**Differs from the bench: 1.**") || strings.Contains(asJSON, "null,") {
		t.Errorf("%s\n%s", markdown, asJSON)
	}
}
