package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/sandbox"
)

// A variant is a way to the server. The server is always the same program out
// of the same image. Each variant has a container of its own: a connection that
// has ended keeps its ports for two minutes in conntrack, so those of
// docker-proxy would be in the way of those of the kernel, which would get
// random ports instead; the container takes half of the connections that come
// from such a port for stragglers of an old one (tcp_timewait_state_process in
// net/ipv4/tcp_minisocks.c).
type variant struct {
	Key, Title string
	port       uint16
	daemon     []string // wslmirror's flags; nil if it does not run
	path       string   // what status must say of the port, "" if nothing
}

var (
	byProxy  = variant{"proxy", "docker-proxy", 8081, []string{"--path", "proxy"}, "proxy"}
	byDirect = variant{"direct", "direct", 8082, []string{"--path", "direct"}, "direct"}
	// The kernel without loopback. From the LAN a packet goes by as many
	// interfaces as from Windows, and on the bench by as many rules outside of
	// WSL. Linux does not reach its own LAN address on the bench; its client
	// takes that of the bridge.
	byLimit = variant{"limit", "kernel's limit", 8083, nil, ""}
	// Without a network of its own the container is a server of Linux.
	byServer = variant{"server", "no container", 9000, []string{"--path", "proxy"}, ""}
	byAlone  = variant{"alone", "the same, no wslmirror", 9001, nil, ""}

	allVariants = []variant{byProxy, byDirect, byLimit, byServer, byAlone}
)

// The clients.
const (
	inWindows = "Windows"
	inLinux   = "Linux"
)

// WSL's addresses on the bench: on eth0, and on Docker's bridge.
const (
	lanAddress    = "192.0.2.2"
	bridgeAddress = "172.17.0.1"
)

// A scene is a bench with the servers, and wslmirror in one mode or off.
type scene struct {
	bench      *lab.Bench
	engine     lab.Engine
	version    func() (string, error)    // of the engine
	containers map[string]*lab.Container // by the key of their variant
	program    *sandbox.Program
	dir        string // for what the load generators read

	running *daemon
}

func newScene(m measuring, ports int, dir string) (*scene, error) {
	b, err := lab.New(lab.Options{Mode: m.mode, Ports: ports})
	if err != nil {
		return nil, err
	}
	s := &scene{bench: b, containers: map[string]*lab.Container{}, program: m.program, dir: dir}
	if err = b.LevelLAN(); err == nil {
		err = s.serve(m.engine)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return s, nil
}

func (s *scene) serve(engine string) error {
	i := slices.IndexFunc(lab.Engines, func(e lab.EngineKind) bool { return e.Name == engine })
	var err error
	if s.engine, err = lab.Engines[i].Start(s.bench.WSL); err != nil {
		return err
	}
	s.version = lab.MobyVersion
	if engine == debianDocker {
		s.version = func() (string, error) { return s.engine.CLI("version", "--format", "{{.Server.Version}}") }
	}
	for _, v := range []variant{byProxy, byDirect, byLimit} {
		publish := fmt.Sprintf("%d:80/", v.port)
		if s.containers[v.Key], err = s.engine.Run(v.Key, publish+"tcp", publish+"udp"); err != nil {
			return err
		}
	}
	// A bridge can change its MAC address when a container joins it, and then
	// the others answer to the old one for a moment.
	for _, c := range s.containers {
		if err := s.bench.WSL.Await(c); err != nil {
			return err
		}
	}
	for _, v := range []variant{byServer, byAlone} {
		_, err := s.engine.CLI("run", "--detach", "--network", "host", "--name", v.Key,
			"echo", "/echo", "-name", v.Key, "-addr", ":"+strconv.Itoa(int(v.port)))
		if err != nil {
			return err
		}
	}
	return nil
}

// A target is where a load goes, and from where.
type target struct {
	scene *scene
	from  *lab.Host
	addr  string // address and port
}

// target prepares a variant for a client: wslmirror is in the right mode, and
// the right server answers.
func (s *scene) target(ctx context.Context, v variant, client string) (target, error) {
	t := target{s, s.bench.Windows, fmt.Sprintf("127.0.0.1:%d", v.port)}
	if client == inLinux {
		t.from = s.bench.WSL
	}
	reuse := "2" // which is the default
	if v.Key == byLimit.Key {
		reuse = "1"
		if client == inLinux {
			t.addr = fmt.Sprintf("%s:%d", bridgeAddress, v.port)
		} else {
			t.from, t.addr = s.bench.LAN, fmt.Sprintf("%s:%d", lanAddress, v.port)
		}
	}
	// A client of 127.0.0.1 may use a source port again a second after its last
	// connection has ended, one of the bridge's address only so; or it would soon
	// look for a free one most of the time.
	if err := s.bench.WSL.Sysctl("ipv4/tcp_tw_reuse", reuse); err != nil {
		return t, err
	}
	if err := s.use(ctx, v.daemon); err != nil {
		return t, err
	}
	if err := s.await(ctx, v); err != nil {
		return t, err
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := t.awaitAnswer(proto, v.Key); err != nil {
			return t, err
		}
	}
	return t, nil
}

// awaitAnswer waits until the right server answers: one that has just been
// started may not listen yet.
func (t target) awaitAnswer(proto, name string) error {
	for deadline := time.Now().Add(daemonTimeout); ; time.Sleep(10 * time.Millisecond) {
		answer, err := t.from.Ask(proto, t.addr, time.Second)
		if err == nil && answer == name {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s: %q answers, not %q, error %v", proto, t.addr, answer, name, err)
		}
	}
}

// use runs wslmirror with these flags, or ends it.
func (s *scene) use(ctx context.Context, args []string) error {
	if s.running != nil {
		if slices.Equal(s.running.args, args) {
			return nil
		}
		if err := s.running.stop(ctx); err != nil {
			return err
		}
		s.running = nil
	}
	if args == nil {
		return nil
	}
	d := &daemon{host: s.bench.WSL, program: s.program, args: args}
	if err := d.start(ctx); err != nil {
		return err
	}
	s.running = d
	return nil
}

// await waits until wslmirror says that the variant's port is reached by the
// way that is to be measured.
func (s *scene) await(ctx context.Context, v variant) error {
	if v.path == "" {
		return nil
	}
	var said string
	for deadline := time.Now().Add(daemonTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		out, err := exec.CommandContext(ctx, s.program.Path, "status", "--json", "--runtime-dir", s.running.dir).Output()
		if err != nil {
			return fmt.Errorf("ask wslmirror: %w", err)
		}
		var status struct {
			Ports []struct {
				Proto, Path string
				Port        uint16
			}
		}
		if err := json.Unmarshal(out, &status); err != nil {
			return fmt.Errorf("ask wslmirror: %w", err)
		}
		for _, p := range status.Ports {
			if p.Proto == "tcp" && p.Port == v.port {
				if said = p.Path; said == v.path {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("wslmirror says that port %d goes by %q, not by %q", v.port, said, v.path)
}
