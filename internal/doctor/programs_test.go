package doctor

import (
	"reflect"
	"testing"
)

func TestProgramsHereFirst(t *testing.T) {
	ending := Program{1, "dockerd", nil, false, false}
	here := Program{2, "dockerd", []string{"dockerd", "--userland-proxy=false"}, true, false}
	other := Program{3, "firewalld", nil, true, false}
	for name, test := range map[string]struct{ have, want []Program }{
		"none":             {[]Program{other}, nil},
		"one perhaps":      {[]Program{ending, other}, []Program{ending}},
		"one for certain":  {[]Program{ending, here, other}, []Program{here}},
		"nothing is known": {nil, nil},
	} {
		o := &Observation{Programs: Seen[[]Program]{Value: test.have}}
		if got := o.programs("dockerd"); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}
