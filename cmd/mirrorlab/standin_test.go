package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// standIn is the test's own program in the place of another one. It returns the exit
// status.
func standIn(name string, args []string) int {
	var err error
	switch name {
	case "powershell":
		err = playPowerShell(args)
	case "curl":
		return playCurl(args)
	default:
		if slices.Contains(args, "-") {
			_, _ = io.Copy(io.Discard, os.Stdin)
		}
		var a standInAnswer
		if a, err = askTest(append([]string{name}, args...)...); err == nil {
			if a.Code != 0 {
				fmt.Fprint(os.Stderr, a.Out)
				return a.Code
			}
			fmt.Println(a.Out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// askTest asks the test that has made the stand-in.
func askTest(args ...string) (a standInAnswer, err error) {
	c, err := net.Dial("unix", os.Getenv("STAND_IN_SOCKET"))
	if err != nil {
		return a, err
	}
	defer c.Close()
	if err = json.NewEncoder(c).Encode(standInCall{args}); err == nil {
		err = json.NewDecoder(c).Decode(&a)
	}
	return a, err
}

// playCurl is curl in a Windows that sends to Linux only what Linux has announced. The
// bench's own sends whatever is bound. It does not return if it is.
func playCurl(args []string) int {
	port := regexp.MustCompile(`:(\d+)/`).FindStringSubmatch(args[len(args)-1])
	if port != nil && !ofLinux("tcp", port[1]) {
		fmt.Print("\n0.001\n")
		return 7
	}
	fmt.Fprintln(os.Stderr, unix.Exec(os.Getenv("STAND_IN_CURL"), append([]string{"curl"}, args...), os.Environ()))
	return 1
}

// ofLinux reports whether Linux has announced a port.
func ofLinux(proto, port string) bool {
	a, err := askTest("has-port", proto, port)
	return err == nil && a.Out == "true"
}

// playPowerShell does what the scripts of internal/field do, and nothing else.
func playPowerShell(args []string) error {
	b, err := base64.StdEncoding.DecodeString(args[len(args)-1])
	if err != nil {
		return err
	}
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		units = append(units, uint16(b[i])|uint16(b[i+1])<<8)
	}
	head, script, _ := strings.Cut(string(utf16.Decode(units)), "\n")
	if head == "exit 0" {
		return nil
	}
	// As Windows' own does it, beside the output.
	fmt.Fprintln(os.Stderr, "#< CLIXML")
	isScript := func(name string) bool {
		want, err := os.ReadFile(filepath.Join(os.Getenv("STAND_IN_SCRIPTS"), name))
		return err == nil && string(want) == script
	}
	switch {
	case strings.HasPrefix(head, "$tasks = @(") && isScript("agent.ps1"):
		for _, m := range regexp.MustCompile(`'(\d+) (\S+) (\S+) (\d+) (\d+) (\d+)'`).FindAllStringSubmatch(head, -1) {
			began := time.Now()
			wait, _ := strconv.Atoi(m[5])
			fmt.Printf("%s %s %d\r\n", m[1], playTask(m[2], m[3], m[4], time.Duration(wait)*time.Millisecond), time.Since(began).Microseconds())
		}
		return nil
	case strings.HasPrefix(head, "$seconds = ") && isScript("listener.ps1"):
		return playListener()
	}
	return fmt.Errorf("another script: %s", head)
}

func playTask(kind, addr, port string, wait time.Duration) string {
	at := net.JoinHostPort(addr, port)
	if proto, ok := strings.CutPrefix(kind, "bind-"); ok {
		if ofLinux(proto, port) {
			return "error AddressAlreadyInUse"
		}
		return "bound -"
	}
	if addr == "127.0.0.1" && !ofLinux("udp", port) {
		return "error ConnectionReset"
	}
	c, err := net.Dial("udp4", at)
	if err != nil {
		return "failed Exception"
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	buf := make([]byte, 1500)
	_, err = c.Write([]byte("who are you\n"))
	n := 0
	if err == nil {
		n, err = c.Read(buf)
	}
	switch {
	case err == nil:
		return "answers " + string(buf[:n])
	case errors.Is(err, unix.ECONNREFUSED):
		return "error ConnectionReset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "error TimedOut"
	}
	return "failed Exception"
}

func playListener() error {
	ready := fmt.Sprintf("ready %d", os.Getpid())
	bye := make(chan struct{})
	for range 2 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		ready += fmt.Sprintf(" %d %d", l.Addr().(*net.TCPAddr).Port, u.LocalAddr().(*net.UDPAddr).Port)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				b := make([]byte, 100)
				n, _ := c.Read(b)
				fmt.Fprintln(c, "Windows")
				c.Close()
				if strings.HasPrefix(string(b[:n]), "bye") {
					close(bye)
				}
			}
		}()
		go func() {
			for b := make([]byte, 100); ; {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte("Windows"), from)
			}
		}()
	}
	fmt.Print(ready, "\r\n")
	select {
	case <-bye:
	case <-time.After(10 * time.Minute): // as the script, if nobody says it
	}
	return nil
}
