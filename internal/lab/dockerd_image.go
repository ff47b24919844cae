package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// echoPackage is the program in the containers.
const echoPackage = "github.com/wslmirror/wslmirror/internal/lab/echo"

// echoImage is a container image, a tar file, that holds nothing but the
// echo server, built now by the go command.
var echoImage = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "wslmirror-lab-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "echo")
	build := exec.Command("go", "build", "-trimpath", "-o", path, echoPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // there is no libc in the container
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the echo server: %w: %s", err, strings.TrimSpace(string(out)))
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	err = w.WriteHeader(&tar.Header{Name: "echo", Mode: 0o755, Size: int64(len(program))})
	if err == nil {
		_, err = w.Write(program)
	}
	return image.Bytes(), errors.Join(err, w.Close())
})

// Echo is the program in the containers. It answers on TCP and UDP as
// [Host.ServeEcho] does, with name, until its process ends.
func Echo(name, addr string) error {
	datagrams, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	// The second, because Docker.Run tries it to know that both are there.
	conns, err := listen(addr)
	if err != nil {
		return errors.Join(err, datagrams.Close())
	}
	serveConns(conns, func(c net.Conn) { echoLines(c, name) })
	echoDatagrams(datagrams.(*net.UDPConn), name)
	return nil
}
