// Package confine takes away what root has and the service does not need. It is for
// where no systemd does that. The process becomes an ordinary user with CAP_NET_ADMIN,
// under the unit's filter of system calls. It can write to one directory and sees
// nothing of Windows.
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

// A User is who the process becomes.
type User struct{ UID, GID int }

// Nobody is the user who owns nothing, for Lookup. Every distribution has the number,
// not every one the name.
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

// variable tells the process its name, which the kernel takes from /proc/self/exe.
const variable = "WSLMIRROR_PROCESS_NAME"

func init() {
	name, ok := os.LookupEnv(variable)
	if !ok {
		return
	}
	os.Unsetenv(variable)
	// The process is called what its first thread is called. init runs on that one.
	if b, err := unix.BytePtrFromString(name); err == nil {
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(b)), 0, 0, 0)
	}
}

// Exec starts this program anew with args, as the same process, and returns only if
// that fails. The process must be root. The new program can write to the directory dir,
// which is made if it does not exist, and to no other file.
func Exec(u User, dir string, args []string) error {
	// Rights belong to a thread. The program becomes what the thread is that starts it.
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
	// By this name it is found even in a folder that only root may enter.
	const self = "/proc/self/exe"
	env := append(os.Environ(), variable+"="+filepath.Base(os.Args[0]))
	return &fs.PathError{Op: "start anew", Path: self, Err: unix.Exec(self, args, env)}
}

// makeDir makes dir for u. What is there is not given to another user.
func makeDir(u User, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		return errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, u.UID, u.GID)) // whatever the umask
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

// hidden is what is Windows': its drives, and the sockets that start its programs. Any
// user may use both.
var hidden = []string{"/mnt", "/run/WSL"}

// restrictFiles gives the thread a file system of its own, in which it can write to dir
// alone.
func restrictFiles(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	// What is mounted later shows up here, but nothing of this is seen outside.
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
	// Where it was may be hidden now, and would still be open to it.
	return unix.Chdir("/")
}

// dropRights makes the thread one of u, with CAP_NET_ADMIN alone. These are plain
// system calls: those of the standard library are for all threads.
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
	// This set is what an ordinary program gets.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_ADMIN, 0, 0); err != nil {
		return err
	}
	unix.Umask(0o077)
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}
