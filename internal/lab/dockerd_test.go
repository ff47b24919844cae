package lab_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

func TestDocker(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	docker := labtest.StartDocker(t, b)
	if out, err := docker.CLI("version", "--format", "{{.Server.Version}}"); err != nil || !strings.HasPrefix(out, "20.10.") {
		t.Errorf("version %q, error %v; the fault is in 20.10", out, err)
	}
	if _, err := docker.Run("bad", "no-port"); err == nil || !strings.Contains(err.Error(), "no-port") {
		t.Errorf("error %v does not say what docker printed", err)
	}
	c := labtest.RunContainer(t, docker, "web", "8080:80", "127.0.0.1:8081:80/udp")
	for proto, addr := range map[string]string{"tcp": "127.0.0.1:8080", "udp": "127.0.0.1:8081"} {
		if answer, err := b.WSL.Ask(proto, addr, patience); err != nil || answer != "web" {
			t.Errorf("%s: answer %q, error %v", proto, answer, err)
		}
	}
	web := http.Client{
		Timeout: patience,
		Transport: &http.Transport{DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
			err = b.WSL.Do(func() error {
				c, err = net.Dial(network, addr)
				return err
			})
			return c, err
		}},
	}
	for range 2 { // on one connection
		response, err := web.Get(fmt.Sprintf("http://%s/", c.Addr))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || string(body) != "web\n" {
			t.Errorf("body %q, error %v", body, err)
		}
		response.Body.Close()
	}
	if err := docker.Remove("web"); err != nil {
		t.Error(err)
	}
	if answer, err := b.WSL.Ask("tcp", "127.0.0.1:8080", silence); err == nil {
		t.Errorf("a container that was removed answers %q", answer)
	}
	if err := docker.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartDockerSaysWhatFailed(t *testing.T) {
	labtest.NeedTree(t)
	b := labtest.New(t, lab.Options{})
	if _, err := b.WSL.StartDocker("--no-such-flag"); err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("error %v does not say what dockerd printed", err)
	}
}
