package status

import (
	"fmt"
	"slices"
	"strings"
)

// mostLines is how many changes of one kind get a line each. More share one line.
const mostLines = 4

// Changes describes, in lines, how ports changed between two snapshots of one daemon. A
// daemon that does not serve changes nothing, and one that starts to serve publishes all
// ports. It is a pure function.
func Changes(last, next Snapshot) (lines []string) {
	if next.State != Active {
		return nil
	}
	if last.State != Active && last.State != Error {
		last = Snapshot{}
	}
	var came, went, changed kind
	for _, p := range next.Ports {
		i := slices.IndexFunc(last.Ports, p.same)
		if i < 0 {
			came.add(p.name(), p.published())
		} else if line := p.changed(last.Ports[i]); line != "" {
			changed.add(p.name(), line)
		}
	}
	for _, p := range last.Ports {
		if !slices.ContainsFunc(next.Ports, p.same) {
			went.add(p.name(), fmt.Sprintf("%s on %s is no longer published by %s", p.name(), p.Address, p.Engine))
		}
	}
	lines = append(lines, went.lines("ports are no longer published")...)
	lines = append(lines, came.lines("ports are published")...)
	lines = append(lines, changed.lines("published ports have changed")...)
	return append(lines, toWindows(last, next)...)
}

// toWindows describes which ports --to-windows has started or stopped to serve.
func toWindows(last, next Snapshot) (lines []string) {
	var began, ceased kind
	was, is := last.direction(ContainersToWindows), next.direction(ContainersToWindows)
	for _, port := range is.Ports {
		if !slices.Contains(was.Ports, port) {
			began.add(port, fmt.Sprintf("containers can now reach %s on Windows' 127.0.0.1", port))
		}
	}
	why := ""
	if is.Reason != "" {
		why = " (" + is.Reason + ")"
	}
	for _, port := range was.Ports {
		if !slices.Contains(is.Ports, port) {
			ceased.add(port, fmt.Sprintf("containers can no longer reach %s on Windows' 127.0.0.1%s", port, why))
		}
	}
	return append(ceased.lines("ports on Windows' 127.0.0.1 are closed to containers again"), began.lines("ports on Windows' 127.0.0.1 are open to containers")...)
}

func (s Snapshot) direction(name string) (d Direction) {
	if i := slices.IndexFunc(s.Directions, func(d Direction) bool { return d.Name == name }); i >= 0 {
		d = s.Directions[i]
	}
	return d
}

// same reports whether q is the same port, even if its other properties changed.
func (p Port) same(q Port) bool {
	return p.Proto == q.Proto && p.Port == q.Port && p.Address == q.Address
}

func (p Port) name() string { return fmt.Sprintf("%d/%s", p.Port, p.Proto) }

// to describes the target.
func (p Port) to() string {
	if p.Target == "" {
		return "a target that its rule computes"
	}
	return p.Target
}

func (p Port) published() string {
	line := fmt.Sprintf("%s is published by %s on %s for %s, path %s", p.name(), p.Engine, p.Address, p.to(), p.Path)
	if p.Reason != "" {
		line += " (" + p.Reason + ")"
	}
	return line
}

// changed describes how p differs from was, "" if it does not.
func (p Port) changed(was Port) string {
	var what []string
	if p.Engine != was.Engine {
		what = append(what, fmt.Sprintf("is published by %s, no longer by %s", p.Engine, was.Engine))
	}
	if p.Target != was.Target {
		what = append(what, fmt.Sprintf("is forwarded to %s, no longer to %s", p.to(), was.to()))
	}
	switch {
	case p.Path != was.Path:
		line := fmt.Sprintf("uses the path %s, no longer %s", p.Path, was.Path)
		if p.Reason != "" {
			line += " (" + p.Reason + ")"
		}
		what = append(what, line)
	case p.Reason != was.Reason && p.Reason != "":
		what = append(what, fmt.Sprintf("keeps the path %s (%s)", p.Path, p.Reason))
	}
	if len(what) == 0 {
		return ""
	}
	return p.name() + " " + strings.Join(what, "; ")
}

// A kind collects the changes of one kind.
type kind struct{ names, each []string }

func (k *kind) add(name, line string) {
	k.names, k.each = append(k.names, name), append(k.each, line)
}

// lines returns one line for each change, or a single line if there are too many.
func (k *kind) lines(what string) []string {
	if len(k.each) <= mostLines {
		return k.each
	}
	return []string{fmt.Sprintf("%d %s: %s and %d more", len(k.each), what, strings.Join(k.names[:mostLines], ", "), len(k.each)-mostLines)}
}
