// Package e2e contains the end-to-end tests. They build wslmirror, run it on the bench with
// the rights of the service, and check what its users see: the kernel, the traffic, the log
// and the output of the commands. Nothing imports this package.
package e2e
