package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress tells what the program does while it works, one line for each step.
type progress struct {
	w        io.Writer
	terminal bool // lines may be written over
}

func newProgress(w io.Writer) progress { return progress{w, isTerminal(w)} }

// step runs fn, of which what says what it does.
func (p progress) step(what string, fn func() error) error {
	begin := time.Now()
	finish := func() {}
	if p.terminal {
		finish = p.animate(what)
	}
	err := fn()
	finish()
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	fmt.Fprintf(p.w, "%s %s (%.1f s)\n", mark, what, time.Since(begin).Seconds())
	return err
}

// animate shows that the step is at work, until finish is called, which leaves
// an empty line.
func (p progress) animate(what string) (finish func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
		for i := 0; ; i++ {
			fmt.Fprintf(p.w, "\r%c %s", frames[i%len(frames)], what)
			select {
			case <-stop:
				fmt.Fprint(p.w, "\r\x1b[K")
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// isTerminal says whether a person reads w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// wantsColour says whether w may be coloured. See https://no-color.org.
func wantsColour(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
