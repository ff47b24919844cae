package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
)

// Only connections that are still open count; closed ones are in the backlog, too.
func TestBeaconIsWatched(t *testing.T) {
	addr := &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@wslmirror-test-%d", os.Getpid())}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &beacon{listener: l}
	defer b.close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.DialUnix("unix", nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if b.watched() {
		t.Error("nobody was there, and it is watched")
	}
	for range 3 {
		dial().Close()
	}
	if b.watched() {
		t.Error("all have gone, and it is watched")
	}
	dial().Close()
	stays := dial()
	defer stays.Close()
	for range 2 {
		if !b.watched() {
			t.Error("one waits, and it is not watched")
		}
	}
}

// Any user may connect, but other users must not delay the end.
func TestStrangerIsNoWatcher(t *testing.T) {
	labtest.NeedRoot(t)
	name := fmt.Sprintf("@wslmirror-test-stranger-%d", os.Getpid())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	b := &beacon{listener: l}
	defer b.close()
	for uid, want := range map[int]bool{4711: false, 0: true} {
		c := as(t, uid, name)
		if b.watched() != want {
			t.Errorf("user %d: watched is %v", uid, !want)
		}
		c.Close()
		if b.watcher != nil {
			b.watcher.Close()
			b.watcher = nil
		}
	}
}

// However many other users connect, and however often, the end does not wait for them.
func TestManyStrangers(t *testing.T) {
	labtest.NeedRoot(t)
	name := fmt.Sprintf("@wslmirror-test-strangers-%d", os.Getpid())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	b := &beacon{listener: l}
	defer b.close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 4711, 4711, 4711); errno != 0 {
			t.Error(errno)
			return
		}
		for {
			select {
			case <-stop:
				return
			default:
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				_ = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
				unix.Close(fd)
			}
		}
	}()
	answered := make(chan bool, 1)
	go func() { answered <- b.watched() }()
	if labtest.Receive(t, "whether anybody waits", answered) {
		t.Error("strangers count")
	}
	close(stop)
	<-stopped
}

// as connects as the user uid.
func as(t *testing.T, uid int, name string) (conn net.Conn) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its changed user ID
		// The wrapper in package unix would change all threads.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			t.Error(errno)
			return
		}
		var err error
		if conn, err = net.Dial("unix", name); err != nil {
			t.Error(err)
		}
	}()
	<-done
	return conn
}

// A process that takes the beacon's name and treats connections as it likes causes a few
// passes, but not an endless series of them.
func TestBeaconOfAStranger(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	var squatter net.Listener
	if err := b.WSL.Do(func() (err error) {
		squatter, err = net.Listen("unix", beaconName)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	go func() {
		for {
			c, err := squatter.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	serves := startDaemon(t, b.WSL, Policy{})
	await(t, serves, status.Active)
	standsBy := startDaemon(t, b.WSL, Policy{})
	await(t, standsBy, status.Standby)
	// Each pass publishes. The passes are 10 ms apart at first; then the pause grows.
	const while, most = 3 * time.Second, 20
	time.Sleep(while) // there is no event to wait for: nothing should happen
	if n, m := len(serves), len(standsBy); n > most || m > most {
		t.Errorf("in %v, %d looks of the daemon that serves and %d of the other, want at most %d", while, n, m, most)
	}
}

// However often a daemon has looked in vain for the beacon of the table's owner, it notices
// at once when the owner ends.
func TestBeaconThatComesLate(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	woken := make(chan struct{}, 1)
	wake := func() { woken <- struct{}{} }
	var owner *beacon
	var w *beaconWatch
	if err := b.WSL.Do(func() (err error) {
		if w, err = watchBeacon(1, wake); err == nil {
			return errors.New("there is a beacon")
		}
		for range 30 { // with a pause that doubles, these would be minutes
			if w.again(wake) == nil {
				return errors.New("there is a beacon")
			}
		}
		if owner, err = lightBeacon(); err != nil {
			return err
		}
		return w.again(wake)
	}); err != nil {
		t.Fatal(err)
	}
	defer w.close()
	began := time.Now()
	owner.close()
	labtest.Receive(t, "the end of the owner", woken)
	if took := time.Since(began); took > lab.Scaled(5*time.Second) {
		t.Errorf("it took %v", took)
	}
}

// The beacon is there before the table, so that other daemons find it when they hear of the
// table.
func TestBeaconComesBeforeTheTable(t *testing.T) {
	b := labtest.New(t, lab.Options{})
	var events *nl.NetlinkSocket
	if err := b.WSL.Do(func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := events.SetReceiveTimeout(&unix.Timeval{Sec: int64(labtest.Patience() / time.Second)}); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, b.WSL, Policy{})
	for {
		messages, _, err := events.Receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE || !bytes.Contains(m.Data, append([]byte(nft.TableName), 0)) {
				continue
			}
			if err := b.WSL.Do(func() error {
				conn, err := net.Dial("unix", beaconName)
				if err == nil {
					err = conn.Close()
				}
				return err
			}); err != nil {
				t.Errorf("there is a table, and no beacon: %v", err)
			}
			return
		}
	}
}
