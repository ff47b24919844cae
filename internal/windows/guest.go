package windows

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// A Guest says whether this Linux runs in WSL, and in which networking mode.
type Guest struct {
	Release string // of the kernel
	WSL     bool
	// Mode is WSL's networking mode as wslinfo prints it, "" if ModeErr is not nil.
	Mode    string
	ModeErr error
}

// LookAtGuest asks the kernel and wslinfo. It gives up when ctx is done.
func LookAtGuest(ctx context.Context) Guest {
	g := Guest{Release: KernelRelease()}
	g.Mode, g.ModeErr = NetworkingMode(ctx)
	release := strings.ToLower(g.Release)
	g.WSL = strings.Contains(release, "microsoft") || strings.Contains(release, "wsl")
	// A custom kernel may have any name.
	var e *Error
	if !errors.As(g.ModeErr, &e) || e.Problem != Absent {
		g.WSL = true
	}
	return g
}

// KernelRelease returns what uname -r prints.
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}
