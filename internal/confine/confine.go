// Package confine drops the privileges of root that the service does not need, for systems
// where systemd does not do that. The process becomes an ordinary user with CAP_NET_ADMIN,
// under the unit's system call filter. It can write to one directory and sees nothing of
// Windows.
package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A User is the user that the process becomes.
type User struct{ UID, GID int }

// Nobody is the user that owns nothing, for Lookup. Every distribution has this number, but
// not every one has the name.
const Nobody = "65534"

// Lookup finds a user by name or by number. A number needs no entry in /etc/passwd.
func Lookup(name string) (User, error) {
	found, err := user.Lookup(name)
	if err != nil {
		uid, notNumber := strconv.ParseUint(name, 10, 31)
		if notNumber != nil {
			return User{}, fmt.Errorf("there is no user %q", name)
		}
		if found, err = user.LookupId(name); err != nil {
			return User{int(uid), int(uid)}, nil
		}
	}
	uid, err := strconv.Atoi(found.Uid)
	gid, err2 := strconv.Atoi(found.Gid)
	return User{uid, gid}, errors.Join(err, err2)
}

// ErrNotYours says that the directory belongs to another user.
var ErrNotYours = errors.New("belongs to another user")

// variable carries the process name to the new program. Without it, the kernel would name
// the process after /proc/self/exe.
const variable = "WSLMIRROR_PROCESS_NAME"

func init() {
	name, ok := os.LookupEnv(variable)
	if !ok {
		return
	}
	os.Unsetenv(variable)
	// The name of the process is that of its first thread, which runs init.
	if b, err := unix.BytePtrFromString(name); err == nil {
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(b)), 0, 0, 0)
	}
}

// Exec runs this program again with args, in the same process, and returns only if that
// fails. The process must be root. The new program can write to the directory dir, which
// Exec creates if necessary, and to no other file.
func Exec(u User, dir string, args []string) error {
	// Privileges belong to a thread. The new program has those of the thread that runs it.
	runtime.LockOSThread()
	if err := makeDir(u, dir); err != nil {
		return err
	}
	if err := restrictFiles(dir); err != nil {
		return fmt.Errorf("restrict the view of the file system: %w", err)
	}
	if err := dropRights(u); err != nil {
		return fmt.Errorf("become an ordinary user: %w", err)
	}
	if err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "as an ordinary user, open", Path: dir, Err: err}
	}
	if err := loadFilter(); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	// This path works even if the program lies in a directory that only root may enter.
	const self = "/proc/self/exe"
	env := append(os.Environ(), variable+"="+filepath.Base(os.Args[0]))
	return &fs.PathError{Op: "start anew", Path: self, Err: unix.Exec(self, args, env)}
}

// makeDir creates dir for u. An existing directory keeps its owner.
func makeDir(u User, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		return errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, u.UID, u.GID)) // in spite of the umask
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	var info unix.Stat_t
	if err := unix.Stat(dir, &info); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if int(info.Uid) != u.UID {
		return fmt.Errorf("%s %w", dir, ErrNotYours)
	}
	return nil
}

// hidden are the paths to Windows: its drives, and the sockets that start its programs. Any
// user may use both.
var hidden = []string{"/mnt", "/run/WSL"}

// restrictFiles gives the thread its own view of the file system, in which it can write
// only to dir.
func restrictFiles(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	// Later mounts outside still appear here, but our mounts do not appear outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	for _, path := range hidden {
		err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=000")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "hide", Path: path, Err: err}
		}
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "mount", Path: dir, Err: err}
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return err
	}
	writable := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &writable); err != nil {
		return err
	}
	// The current directory may be hidden now, but would still be accessible.
	return unix.Chdir("/")
}

// dropRights turns the thread into one of u, with CAP_NET_ADMIN only. These are plain
// system calls, because those of the standard library change all threads.
func dropRights(u User) error {
	for c := uintptr(0); ; c++ {
		if c == unix.CAP_NET_ADMIN {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel knows no more capabilities
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	uid, gid := uintptr(u.UID), uintptr(u.GID)
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, gid, gid, gid},
		{unix.SYS_SETRESUID, uid, uid, uid},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	const netAdmin = 1 << unix.CAP_NET_ADMIN
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	sets := [2]unix.CapUserData{{Effective: netAdmin, Permitted: netAdmin, Inheritable: netAdmin}}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return err
	}
	// An ordinary program inherits this set.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_ADMIN, 0, 0); err != nil {
		return err
	}
	unix.Umask(0o077)
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}
