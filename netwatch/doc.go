// Package netwatch tells that something about the network may have changed, what
// links, addresses, routes and ip rules there are, and WSL's networking mode by them.
//
// Beware: an event here is a hint and nothing more. It does not say what has
// changed, several may arrive as one, and one may arrive though nothing is
// different. Whoever is woken reads everything again and compares. That is why
// a lost event, or a flood of them, does no harm.
package netwatch
