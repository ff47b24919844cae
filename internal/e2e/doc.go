// Package e2e holds the end-to-end tests: they build wslmirror, run it on the bench with
// the rights of the service, and judge it by what its users see, which is the kernel, the
// traffic, the log and what the commands print. Nothing imports it.
package e2e
