package chaos

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// A Cost is what a daemon has cost.
type Cost struct {
	CPU time.Duration
	// Memory is the most that was resident, in bytes.
	Memory uint64
	// Looks is how often it has looked at the kernel and told the outcome.
	Looks int
	// Descriptors and Threads are how many were open or there at most.
	Descriptors, Threads int
}

// A Level is what a daemon has at one time.
type Level struct {
	Memory      uint64
	Descriptors int
}

// earlyAndLate are the levels in the second and in the last fifth of a time: the
// middle of those of memory, which goes up and down with the collector, and the
// lowest of those of descriptors, some of which are open for a moment.
func earlyAndLate(of []Level) (early, late Level) {
	fifth := len(of) / 5
	if fifth == 0 {
		return early, late // too short to tell
	}
	return typical(of[fifth : 2*fifth]), typical(of[len(of)-fifth:])
}

func typical(of []Level) Level {
	of = slices.Clone(of)
	slices.SortFunc(of, func(a, b Level) int { return cmp.Compare(a.Descriptors, b.Descriptors) })
	least := of[0].Descriptors
	slices.SortFunc(of, func(a, b Level) int { return cmp.Compare(a.Memory, b.Memory) })
	return Level{of[len(of)/2].Memory, least}
}

// add is for daemons that follow one another.
func (c *Cost) add(d Cost) {
	c.CPU += d.CPU
	c.Looks += d.Looks
	c.Memory = max(c.Memory, d.Memory)
	c.Descriptors = max(c.Descriptors, d.Descriptors)
	c.Threads = max(c.Threads, d.Threads)
}

// A meter measures a daemon from outside.
type meter struct {
	pid     int
	inotify *os.File
	looks   atomic.Int64
	cost    Cost
	now     Level // at the last sample
}

// newMeter waits until the daemon publishes: each time it has looked, it puts a
// new status file in the place of the old one.
func newMeter(d *daemon) (*meter, error) {
	m := &meter{pid: d.proc.Process.Pid}
	// Its runtime directory is a file system of its own mount namespace.
	dir := filepath.Join("/proc", strconv.Itoa(m.pid), "root", d.dir)
	for deadline := time.Now().Add(lab.Scaled(30 * time.Second)); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "status.json")); err == nil {
			break
		} else if time.Now().After(deadline) {
			return nil, fmt.Errorf("wslmirror publishes nothing: %w", err)
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	m.inotify = os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), m.inotify.Close())
	}
	go m.count()
	return m, m.sample()
}

// count counts the looks. It must not come late: of equal events that wait,
// inotify makes one.
func (m *meter) count() {
	buf := make([]byte, 4<<10)
	for {
		n, err := m.inotify.Read(buf)
		if err != nil {
			return // closed
		}
		for at := 0; at < n; m.looks.Add(1) {
			// struct inotify_event, whose last field is the length of the name
			name := int(binary.NativeEndian.Uint32(buf[at+12:]))
			at += unix.SizeofInotifyEvent + name
		}
	}
}

// sample reads what there is now.
func (m *meter) sample() error {
	m.cost.Looks = int(m.looks.Load())
	dir := filepath.Join("/proc", strconv.Itoa(m.pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return fmt.Errorf("wslmirror has ended: %w", err)
	}
	// After the name in parentheses comes the state, field 3 of proc(5).
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const first, utime, stime, threads, rss = 3, 14, 15, 20, 24
	number := func(field int) uint64 {
		n, _ := strconv.ParseUint(f[field-first], 10, 64)
		return n
	}
	const userHZ = 100
	m.cost.CPU = time.Duration(number(utime)+number(stime)) * time.Second / userHZ
	m.cost.Threads = max(m.cost.Threads, int(number(threads)))
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	m.now = Level{number(rss) * uint64(os.Getpagesize()), len(fds)}
	m.cost.Memory = max(m.cost.Memory, m.now.Memory)
	m.cost.Descriptors = max(m.cost.Descriptors, m.now.Descriptors)
	return err
}

func (m *meter) close() error { return m.inotify.Close() }
