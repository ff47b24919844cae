// Package netwatch reports that the network may have changed. It reads links,
// addresses, routes and ip rules, and derives WSL's networking mode from them.
//
// Beware: an event is only a hint. It does not say what has changed, several events may
// arrive as one, and an event may arrive although nothing has changed. The receiver
// reads everything again and compares. So lost events and floods of events do no harm.
package netwatch
