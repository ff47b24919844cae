package hold

import (
	"fmt"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/status"
)

// An engine that binds its ports itself gets time to do so. Other ports are held at once.
func TestPatient(t *testing.T) {
	h := New(Config{}, nil)
	s := status.Snapshot{Ports: []status.Port{
		{Proto: "tcp", Port: 1, Engine: "cni"}, {Proto: "tcp", Port: 2, Engine: "docker"}, {Proto: "tcp", Port: 3, Engine: "podman"},
	}}
	cni, docker, podman := Port{"tcp", 1}, Port{"tcp", 2}, Port{"tcp", 3}
	began := time.Now()
	for _, step := range []struct {
		after time.Duration
		want  []Port
		rest  string
		wait  time.Duration
	}{
		{0, []Port{cni, docker}, "[1/tcp]", engineFirst},
		{engineFirst / 2, []Port{cni, docker, podman}, "[1/tcp]", engineFirst / 2},
		{engineFirst, []Port{cni, docker, podman}, "[1/tcp 2/tcp]", engineFirst / 2},
		{engineFirst, []Port{cni, podman}, "[1/tcp]", engineFirst / 2}, // docker has bound it
		{2 * engineFirst, []Port{docker, podman}, "[3/tcp]", engineFirst},
	} {
		rest, wait := h.patient(s, step.want, began.Add(step.after))
		if fmt.Sprint(rest) != step.rest || wait != step.wait {
			t.Errorf("after %v: %v, %v; want %s, %v", step.after, rest, wait, step.rest, step.wait)
		}
	}
}
