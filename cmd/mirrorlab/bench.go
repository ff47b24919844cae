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

// The servers of the bench, all on 127.0.0.1.
const (
	containerTCP = "8080"
	containerUDP = "5353"
	linuxTCP     = "9000"
	windowsTCP   = "9001"
)

// newBench builds a bench with a container and the other servers.
func newBench(mode lab.Mode) (*lab.Bench, error) {
	b, err := lab.New(lab.Options{Mode: mode})
	if err != nil {
		return nil, err
	}
	if err := serve(b); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func serve(b *lab.Bench) error {
	engine, err := b.StartStandIn()
	if err != nil {
		return err
	}
	if err := engine.Publish("tcp", "0.0.0.0:"+containerTCP); err != nil {
		return err
	}
	if err := engine.Publish("udp", "0.0.0.0:"+containerUDP); err != nil {
		return err
	}
	if _, err := b.WSL.ServeEcho("tcp", "127.0.0.1:"+linuxTCP); err != nil {
		return err
	}
	_, err = b.Windows.ServeEcho("tcp", "127.0.0.1:"+windowsTCP)
	return err
}

// patience is how long a client waits. Whatever answers on the bench does so
// within milliseconds.
var patience = lab.Scaled(800 * time.Millisecond)

// A way is a row of the table and how to fill it.
type way struct {
	row
	from   *lab.Host
	answer string // the name of who should answer
}

func ways(b *lab.Bench) []way {
	return []way{
		{row{client: "Windows", server: "container", port: containerTCP + "/tcp", want: onlyRepaired}, b.Windows, "container"},
		{row{client: "Windows", server: "container", port: containerUDP + "/udp", want: onlyRepaired}, b.Windows, "container"},
		{row{client: "Linux", server: "container", port: containerTCP + "/tcp", want: always}, b.WSL, "container"},
		{row{client: "Linux", server: "container", port: containerUDP + "/udp", want: always}, b.WSL, "container"},
		{row{client: "Windows", server: "Linux server", port: linuxTCP + "/tcp", want: always}, b.Windows, "WSL"},
		{row{client: "Linux", server: "Windows server", port: windowsTCP + "/tcp", want: always}, b.WSL, "Windows"},
	}
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
	answer, err := w.from.Ask(proto, "127.0.0.1:"+port, patience)
	var network net.Error
	switch {
	case err == nil && answer == w.answer:
		return answers
	case err == nil:
		return "by " + answer
	case errors.As(err, &network) && network.Timeout():
		return noAnswer
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	}
	return err.Error()
}
