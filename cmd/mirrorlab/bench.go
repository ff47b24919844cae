package main

import (
	"errors"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// The servers of the bench, all on localhost.
const (
	containerTCP = "8080"
	containerUDP = "5353"
	linuxTCP     = "9000"
	windowsTCP   = "9001"
)

// A bench has a container and the other servers.
type bench struct {
	*lab.Bench
	container *lab.Host
}

func newBench(mode lab.Mode) (*bench, error) {
	of, err := lab.New(lab.Options{Mode: mode})
	if err != nil {
		return nil, err
	}
	b := &bench{Bench: of}
	if err := b.serve(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *bench) serve() error {
	engine, err := b.StartStandIn()
	if err != nil {
		return err
	}
	b.container = engine.Container
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
