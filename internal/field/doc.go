// Package field compares a real WSL with the bench. It starts servers in Linux, in
// containers and on Windows' localhost, has clients everywhere send them requests, without
// wslmirror and with it, and reports what differs from what the bench shows.
//
// What to ask (question.go), what WSL should have set up (setup.go) and what came of it
// (report.go) are pure functions. The rest opens sockets and runs programs: those of the
// container engines, of Windows (by interop) and wslmirror itself. Each has a time limit,
// and may be absent: then its answers are "not checked".
package field
