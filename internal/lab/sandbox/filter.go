package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// A Filter is what a program may ask of the kernel. System calls that this
// architecture does not have are passed over.
type Filter struct {
	// Allowed are the calls that it may make. The others fail with EPERM.
	Allowed []string
	// Families are the address families of the sockets that it may make, if there are
	// any. The others fail with EAFNOSUPPORT.
	Families []uint64
	// Asked are calls before which the kernel asks a supervisor (seccomp_unotify(2)),
	// who can let them pass. The descriptor to answer by is among those of the
	// process, for as long as that waits in execve to become the program.
	Asked []string
}

// variable is what tells Enter that it was started for a filter, and which. The
// arguments are then the program that takes its place.
const variable = "WSLMIRROR_LAB_FILTER"

// String is f for the environment.
func (f *Filter) String() string {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // it is lists of names
	}
	return string(b)
}

// Enter is the first that a program calls in main which runs others under a filter: it
// is started again, without its rights, and returns only if it was not started for
// that.
func Enter() {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return
	}
	err := enter(text)
	fmt.Fprintln(os.Stderr, "enter the sandbox:", err)
	os.Exit(99)
}

func enter(text string) error {
	var f Filter
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return err
	}
	policy, err := f.policy()
	if err != nil {
		return err
	}
	flags := seccomp.FilterFlag(0)
	if len(f.Asked) > 0 {
		// The second flag keeps a signal from restarting the call after we have seen it.
		// Otherwise our answer is lost: Go's runtime interrupts its own threads with SIGURG.
		flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	if err := os.Unsetenv(variable); err != nil {
		return err
	}
	// The filter is this thread's, and the program becomes what this thread is.
	runtime.LockOSThread()
	if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: flags, Policy: policy}); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", os.Args[1], syscall.Exec(os.Args[1], os.Args[1:], os.Environ()))
}

// policy is f as the library has it: the first group that a call is in decides.
func (f *Filter) policy() (seccomp.Policy, error) {
	machine, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, err
	}
	known := func(names []string) (list []string) {
		for _, name := range names {
			if _, ok := machine.SyscallNames[name]; ok {
				list = append(list, name)
			}
		}
		return list
	}
	var foreign seccomp.ArgumentConditions // all of these together
	for _, family := range f.Families {
		foreign = append(foreign, seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: family})
	}
	var groups []seccomp.SyscallGroup
	if len(foreign) > 0 {
		groups = append(groups, seccomp.SyscallGroup{
			NamesWithCondtions: []seccomp.NameWithConditions{{Name: "socket", Conditions: foreign}},
			Action:             seccomp.ActionErrno | seccomp.Action(unix.EAFNOSUPPORT),
		})
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, // with EPERM
		Syscalls: append(groups,
			seccomp.SyscallGroup{Names: known(f.Asked), Action: seccomp.ActionUserNotify},
			seccomp.SyscallGroup{Names: known(f.Allowed), Action: seccomp.ActionAllow}),
	}, nil
}

// OfUnit is SystemCallFilter= and RestrictAddressFamilies= of a unit's text, with the
// meaning of systemd.exec(5) as far as ours makes use of it.
func OfUnit(unit string) (*Filter, error) {
	allowed := map[string]bool{}
	var f Filter
	for line := range strings.Lines(unit) {
		line = strings.TrimSpace(line)
		if line == "" || strings.ContainsRune("#;[", rune(line[0])) {
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		// What systemd would read otherwise must not become a hole.
		if value == "" || strings.TrimSpace(key) != key || strings.HasSuffix(line, `\`) {
			return nil, fmt.Errorf("%q is not understood here", line)
		}
		switch key {
		case "RestrictAddressFamilies":
			for _, name := range strings.Fields(value) {
				family, ok := map[string]uint64{
					"AF_NETLINK": unix.AF_NETLINK, "AF_UNIX": unix.AF_UNIX, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6,
				}[name]
				if !ok {
					return nil, fmt.Errorf("RestrictAddressFamilies: the number of %s is not known here", name)
				}
				f.Families = append(f.Families, family)
			}
		case "SystemCallFilter":
			value, not := strings.CutPrefix(value, "~")
			for _, name := range strings.Fields(value) {
				calls, err := group(name)
				if err != nil {
					return nil, err
				}
				for _, call := range calls {
					allowed[call] = !not
				}
			}
		}
	}
	for call, ok := range allowed {
		if ok {
			f.Allowed = append(f.Allowed, call)
		}
	}
	return &f, nil
}

// group is what a group of system calls consists of, by the word of systemd.
func group(name string) (calls []string, err error) {
	if !strings.HasPrefix(name, "@") {
		return []string{name}, nil
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", name).Output()
	if err != nil {
		return nil, fmt.Errorf("ask systemd what %s is: %w", name, err)
	}
	for line := range strings.Lines(string(out)) {
		word := strings.TrimSpace(line)
		if word == "" || word == name || strings.HasPrefix(word, "#") {
			continue
		}
		more, err := group(word)
		if err != nil {
			return nil, err
		}
		calls = append(calls, more...)
	}
	return calls, nil
}
