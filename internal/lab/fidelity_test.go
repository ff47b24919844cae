package lab_test

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"golang.org/x/sys/unix"
)

// What a client can meet beside an answer, which is the name of who answers.
const (
	hangs  = "hangs"
	resets = "resets" // the connection is made, and then broken
)

// patience is how long a client waits for an answer that must come. Everything that
// answers on the bench does so within milliseconds.
var patience = lab.Scaled(10 * time.Second)

// silence is how long a client that should hang waits before it counts as hanging.
const silence = time.Second

// The bench is trusted because it shows, with nothing of wslmirror running,
// what users of Docker 20.10 report. Windows' clients of Windows' own servers
// are not here: see the package comment.
func TestFidelity(t *testing.T) {
	labtest.NeedTree(t)
	const (
		linux, windows   = 9000, 9001 // servers without a container
		published, local = 8080, 8081 // on 0.0.0.0 and on 127.0.0.1
	)
	type row struct {
		client   string
		port     int
		tcp, udp string
	}
	everywhere := []row{
		{"Windows", linux, "WSL", "WSL"},
		{"WSL", linux, "WSL", "WSL"}, // through Windows
		{"WSL", windows, "Windows", "Windows"},
	}
	proxy := append(everywhere[:3:3],
		// github.com/microsoft/WSL/issues/10494
		row{"Windows", published, hangs, hangs},
		row{"Windows", local, hangs, hangs},
		row{"WSL", published, "web", "web"},
		row{"WSL", local, "web", "web"},
	)
	noProxy := append(everywhere[:3:3],
		// github.com/moby/moby/issues/48056
		row{"Windows", published, "web", "web"},
		row{"Windows", local, "web", "web"},
	)
	if !kernelBefore(t, 6, 7) {
		// github.com/moby/moby/issues/53553: the container's replies come
		// back by Windows, and as the kernel does not know them it gives them
		// another source port. Until 6.7 a connection survived that.
		noProxy = append(noProxy,
			row{"WSL", published, resets, hangs},
			row{"WSL", local, resets, hangs},
		)
	}
	for _, engine := range []struct {
		name  string
		flags []string
		rows  []row
	}{
		{"proxy", nil, proxy},
		{"no proxy", []string{"--userland-proxy=false"}, noProxy},
	} {
		t.Run(engine.name, func(t *testing.T) {
			t.Parallel()
			b := labtest.New(t, lab.Options{})
			docker := labtest.StartDocker(t, b, engine.flags...)
			var publish []string
			for _, proto := range []string{"tcp", "udp"} {
				publish = append(publish,
					fmt.Sprintf("%d:80/%s", published, proto), fmt.Sprintf("127.0.0.1:%d:80/%s", local, proto))
				for host, port := range map[*lab.Host]int{b.WSL: linux, b.Windows: windows} {
					if _, err := host.ServeEcho(proto, fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
						t.Fatal(err)
					}
				}
			}
			labtest.RunContainer(t, docker, "web", publish...)
			clients := map[string]*lab.Host{"WSL": b.WSL, "Windows": b.Windows}
			var asking sync.WaitGroup
			for _, r := range engine.rows {
				for proto, want := range map[string]string{"tcp": r.tcp, "udp": r.udp} {
					asking.Go(func() {
						if got := outcome(clients[r.client], proto, r.port, want); got != want {
							t.Errorf("%s to %s 127.0.0.1:%d: %s, want %s", r.client, proto, r.port, got, want)
						}
					})
				}
			}
			asking.Wait()
		})
	}
}

// outcome says what a client meets at a port of 127.0.0.1. It should be want.
func outcome(client *lab.Host, proto string, port int, want string) string {
	wait := patience
	if want == hangs {
		wait = silence
	}
	answer, err := client.Ask(proto, fmt.Sprintf("127.0.0.1:%d", port), wait)
	var network net.Error
	switch {
	case err == nil:
		return answer
	case errors.As(err, &network) && network.Timeout():
		return hangs
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return resets
	default:
		return err.Error() // a refusal, say, which is no fault that users report
	}
}

func kernelBefore(t *testing.T, major, minor int) bool {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var x, y int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &x, &y); err != nil {
		t.Fatal(err)
	}
	return x < major || x == major && y < minor
}
