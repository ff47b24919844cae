package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A crowd is many TCP clients at once, in a process of their own: the nftables library of
// the bench panics on a descriptor of 1024 or more.
type crowd struct {
	N int
	// Port is the port of 127.0.0.1 to which the first client connects. The others connect
	// to the same port or, with Scan, to the next ones.
	Port int
	Scan bool
	Wait time.Duration
}

// An outcome is the result of a crowd: how many clients had which result, in connect's
// words, and how long the slowest took.
type outcome struct {
	Came    map[string]int
	Slowest time.Duration
}

// start starts the clients, and come returns their outcome.
func (c crowd) start(t *testing.T, b *lab.Bench) (come func() outcome) {
	t.Helper()
	tellWindows(t, b)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crowdEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	p, err := b.WSL.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return func() (o outcome) {
		t.Helper()
		if err := errors.Join(p.Wait(), json.Unmarshal(stdout.Bytes(), &o)); err != nil {
			t.Errorf("%+v: %v: %s", c, err, stderr.String())
		}
		return o
	}
}

// allCome waits for a crowd whose clients must all have the result want.
func allCome(t *testing.T, who string, c crowd, come func() outcome, want string) (slowest time.Duration) {
	t.Helper()
	o := come()
	if want := (map[string]int{want: c.N}); fmt.Sprint(o.Came) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", who, o.Came, want)
	}
	return o.Slowest
}

const crowdEnv = "WSLMIRROR_E2E_CROWD"

// beCrowd runs a crowd in its own process.
func beCrowd(text string) error {
	var c crowd
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	var mu sync.Mutex
	o := outcome{Came: map[string]int{}}
	var clients sync.WaitGroup
	for i := range c.N {
		port := c.Port
		if c.Scan {
			port += i
		}
		clients.Go(func() {
			began := time.Now()
			conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), c.Wait)
			came := cameTo(err)
			mu.Lock()
			defer mu.Unlock()
			o.Came[came]++
			o.Slowest = max(o.Slowest, time.Since(began))
			if err == nil {
				conn.Close()
			}
		})
	}
	clients.Wait()
	return json.NewEncoder(os.Stdout).Encode(o)
}

// cameTo returns the result of a connection: "connected", "refused", "waiting" if it timed
// out, or the error.
func cameTo(err error) string {
	var network net.Error
	switch {
	case err == nil:
		return "connected"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.As(err, &network) && network.Timeout() && !errors.Is(err, unix.ETIMEDOUT):
		return "waiting"
	}
	return err.Error()
}
