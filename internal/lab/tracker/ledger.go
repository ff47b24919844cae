package tracker

import "time"

// keep is how long a port is kept that the kernel does not show: nothing tells the
// tracker when a bind() that it let through is over.
const keep = time.Minute

// A ledger is what the tracker remembers.
type ledger struct {
	exact  bool // whether a socket must have the same address, not only the same port
	renews bool // whether a second bind lets the time begin anew
	ask    func(b Binding, reserve bool) (result int32)
	// until is when a binding is given back if it has not been seen. Once it has been seen
	// this is zero, and it is given back when it is not seen any more.
	until map[Binding]time.Time
}

// request asks Windows for b, unless it is held already.
func (l *ledger) request(b Binding, now time.Time) (result int32) {
	_, held := l.until[b]
	if !held {
		if result := l.ask(b, true); result != 0 {
			return result
		}
	}
	if !held || l.renews {
		l.until[b] = now.Add(keep)
	}
	return 0
}

// look compares with the sockets that the kernel shows.
func (l *ledger) look(sockets []Binding, now time.Time) {
	bindings, ports := map[Binding]bool{}, map[Port]bool{}
	for _, s := range sockets {
		bindings[s], ports[s.port()] = true, true
	}
	for b, until := range l.until {
		seen := ports[b.port()]
		if l.exact {
			seen = bindings[b]
		}
		switch {
		case seen:
			l.until[b] = time.Time{}
		case until.Before(now):
			l.ask(b, false)
			delete(l.until, b)
		}
	}
}
