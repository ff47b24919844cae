package confine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// families are the unit's RestrictAddressFamilies=.
var families = []uint32{unix.AF_NETLINK, unix.AF_UNIX}

// The offsets in the kernel's struct seccomp_data that the filter reads.
const (
	call     = 0
	arch     = 4
	argument = 16 // the lower half of the first argument
)

// filter returns the program with which the kernel checks each system call. It corresponds
// to SystemCallFilter=, SystemCallArchitectures= and RestrictAddressFamilies= of the unit.
func filter() []unix.SockFilter {
	refuse := answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	n := uint8(len(families))
	program := []unix.SockFilter{
		load(arch), jump(unix.BPF_JEQ, auditArch, 1, 0), refuse,
		load(call), jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, n+2), load(argument),
	}
	for _, family := range families {
		program = append(program, jump(unix.BPF_JEQ, family, n, 0)) // skips the refusal
		n--
	}
	program = append(program, answer(unix.SECCOMP_RET_ERRNO|uint32(unix.EAFNOSUPPORT)), load(call))
	for _, r := range allowed {
		program = append(program,
			jump(unix.BPF_JGE, r[0], 1, 0), refuse, // between two ranges
			jump(unix.BPF_JGT, r[1], 1, 0), answer(unix.SECCOMP_RET_ALLOW))
	}
	return append(program, refuse)
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// jump compares the loaded value with value, and skips ifTrue or ifFalse instructions.
func jump(comparison uint16, value uint32, ifTrue, ifFalse uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | comparison | unix.BPF_K, Jt: ifTrue, Jf: ifFalse, K: value}
}

func answer(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
}

// loadFilter installs the filter for the thread and the program that it becomes.
func loadFilter() error {
	program := filter()
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f)))
	if errno != 0 {
		return errno
	}
	return nil
}
