package main

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// patience is how long a client waits. Whatever answers on the bench does so within
// milliseconds, but for a closed port.
var (
	patience       = lab.Scaled(800 * time.Millisecond)
	closedPatience = lab.Scaled(2500 * time.Millisecond)
)

// A way is a row of the table and how to fill it.
type way struct {
	row
	from   *lab.Host
	addr   string // at which the client asks
	answer string // the name of who should answer, "" if nobody should
	// direction is the one of wslmirror's status that brings the answer, "" where none
	// is needed or each kernel has what it needs.
	direction string
}

// The addresses at which clients ask.
const (
	localhost = "127.0.0.1"
	gateway   = "172.17.0.1" // host.docker.internal
	lanAddr   = "192.0.2.2"
)

// closedTCP is a port that nobody has.
const closedTCP = "7999"

func ways(b *bench, mode lab.Mode) []way {
	closed := repaired(noAnswer, refusedLate)
	if mode == lab.Consomme {
		closed = always(refused)
	}
	list := []way{
		{row{client: "Windows", server: "container", port: containerTCP + "/tcp", want: repaired(noAnswer, answers)}, b.Windows, localhost, "container", ""},
		{row{client: "Windows", server: "container", port: containerUDP + "/udp", want: repaired(noAnswer, answers)}, b.Windows, localhost, "container", ""},
		{row{client: "Linux", server: "container", port: containerTCP + "/tcp", want: always(answers)}, b.WSL, localhost, "container", ""},
		{row{client: "Linux", server: "container", port: containerUDP + "/udp", want: always(answers)}, b.WSL, localhost, "container", ""},
		{row{client: "Windows", server: "Linux", port: linuxTCP + "/tcp", want: always(answers)}, b.Windows, localhost, "WSL", ""},
		{row{client: "Linux", server: "Windows", port: windowsTCP + "/tcp", want: always(answers)}, b.WSL, localhost, "Windows", ""},
		{row{client: "container", server: "Windows", port: windowsTCP + "/tcp", want: repaired(refused, answers)}, b.container, gateway, "Windows", "containers-to-windows"},
		{row{client: "Linux", server: "closed port", port: closedTCP + "/tcp", want: closed}, b.WSL, localhost, "", "closed-ports"},
	}
	if mode == lab.MirroredHAL {
		// Before Linux 6.7 the packets that come back are not taken for a new flow
		// (moby/moby#53553).
		own := repaired(reset, answers)
		if lab.KernelBefore(6, 7) {
			own = always(answers)
		}
		list = append(list, way{row{client: "Linux", server: "own address", port: containerTCP + "/tcp", want: own}, b.WSL, lanAddr, "container", "own-address"})
	}
	return list
}

// ask goes all ways at once, for one column of the table.
func ask(ways []way, column int) {
	var asking sync.WaitGroup
	for i := range ways {
		asking.Go(func() { ways[i].got[column] = ways[i].ask() })
	}
	asking.Wait()
}

func (w *way) ask() string {
	port, proto, _ := strings.Cut(w.port, "/")
	wait := patience
	if w.answer == "" {
		wait = closedPatience
	}
	began := time.Now()
	answer, err := w.from.Ask(proto, w.addr+":"+port, wait)
	var network net.Error
	switch {
	case err == nil && answer == w.answer:
		return answers
	case err == nil:
		return "by " + answer
	case errors.As(err, &network) && network.Timeout():
		return noAnswer
	case errors.Is(err, syscall.ECONNRESET):
		return reset
	case errors.Is(err, syscall.ECONNREFUSED) && time.Since(began) >= time.Second:
		return refusedLate
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	}
	return err.Error()
}
