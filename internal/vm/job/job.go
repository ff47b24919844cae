// Package job is what a virtual machine of package vm and its process 1 tell each other.
package job

// File is where the guest finds its jobs, as JSON.
const File = "/jobs.json"

// Root is where a system that boots from a disk has the machine's own file system.
const Root = "/run/vm"

// A Job is a program to be run.
type Job struct {
	Name string
	Dir  string
	Args []string
	Env  []string
}

// What the guest prints before and after a job, at the beginning of a line: its name, and
// its exit code and how many milliseconds it took.
const (
	Begin = "@@ begin "
	End   = "@@ end "
)
