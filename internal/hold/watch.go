package hold

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A watch reports when the daemon publishes something, starts or ends. It uses inotify(7),
// so nothing is polled.
type watch struct {
	dir  string
	file *os.File
	C    chan struct{} // has one element if something has happened
}

func newWatch(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify", err)
	}
	w := &watch{dir: dir, file: os.NewFile(uintptr(fd), "inotify"), C: make(chan struct{}, 1)}
	if err := w.add(); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.read()
	return w, nil
}

// add watches the directory, or its parent while the directory does not exist. Adding a
// watch twice has no effect.
func (w *watch) add() (err error) {
	controlErr := w.control(func(fd int) {
		_, err = unix.InotifyAddWatch(fd, w.dir, unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR)
		if err == unix.ENOENT {
			_, err = unix.InotifyAddWatch(fd, filepath.Dir(w.dir), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONESHOT|unix.IN_ONLYDIR)
			if err == nil {
				// The directory may have been created in between.
				_, _ = unix.InotifyAddWatch(fd, w.dir, unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR)
			}
		}
	})
	if err == nil {
		err = controlErr
	}
	return os.NewSyscallError("watch "+w.dir, err)
}

func (w *watch) control(f func(fd int)) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// read turns events into elements of C until close.
func (w *watch) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(b)
		if err != nil {
			return
		}
		gone := false
		for rest := b[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(rest[4:])
			gone = gone || mask&unix.IN_IGNORED != 0
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			rest = rest[min(size, len(rest)):]
		}
		if gone { // the directory is gone, or the parent's one-shot event has come
			_ = w.add() // the parent always exists
		}
		signal(w.C)
	}
}

func (w *watch) close() { w.file.Close() }

// signal puts an element into c if there is none.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
