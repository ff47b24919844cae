package mirror

import (
	"slices"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// To delete the return rule leaves the marks of bridges alone, whichever is
// older, and the other way round.
func TestRulesAreToldApart(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	var rules *ipRules
	err := b.WSL.Do(func() (err error) {
		rules, err = openIPRules()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer rules.close()
	expect := func(wantReturns bool, wantMarked ...string) {
		t.Helper()
		returns, marked, err := rules.read()
		if slices.Sort(marked); err != nil || returns != wantReturns || !slices.Equal(marked, wantMarked) {
			t.Fatalf("the return rule is there: %v, marked are %q, %v", returns, marked, err)
		}
	}
	for _, err := range []error{
		rules.set(bridgeMark("docker0"), true), rules.set(returnRule(), true), rules.set(bridgeMark("br-1"), true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(true, "br-1", "docker0")
	rules.set(returnRule(), false)
	expect(false, "br-1", "docker0")
	rules.set(returnRule(), true)
	rules.set(bridgeMark("docker0"), false)
	expect(true, "br-1")
	rules.set(bridgeMark("br-1"), false)
	expect(true)
	rules.set(returnRule(), false)
	expect(false)
}
