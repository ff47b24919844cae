// Package status is what the daemon tells all users: a snapshot in a file that any user may
// read, and a socket through which any user may request a new one.
package status

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/text"
)

// DefaultDir is the runtime directory of the service.
const DefaultDir = "/run/wslmirror"

// DefaultInterface is the link on which WSL delivers Windows' localhost traffic.
const DefaultInterface = "loopback0"

// A State is what the daemon is doing.
type State string

const (
	Active  State = "active"  // the rules are in the kernel
	Waiting State = "waiting" // there is no loopback0
	Standby State = "standby" // another wslmirror in this VM is active
	Stopped State = "stopped" // no daemon is running here
	Error   State = "error"   // the daemon fails, and retries
)

// Schema is the number of the Snapshot's JSON form. While it stays the same, fields are
// added, but never renamed or removed (docs/json.md).
const Schema = 1

// A Snapshot is the state of the daemon at one moment. Its JSON form is an interface.
type Snapshot struct {
	// Schema is 0 if a daemon older than schema 1 has written the snapshot. Write always
	// sets it to Schema.
	Schema int   `json:"schema"`
	State  State `json:"state"`
	// Reason says why the state is not active, if there is more to say.
	Reason    string    `json:"reason,omitempty"`
	Interface Interface `json:"interface"`
	// Mode is WSL's networking mode, a value of netwatch.Mode; "" if it could not be read.
	Mode string `json:"mode,omitempty"`
	// Path is the path that packets should take to a published port whose engine has a
	// userland proxy: PathProxy or PathDirect.
	Path  string `json:"path"`
	Table Table  `json:"table"`
	Rule  Rule   `json:"rule"`
	// Directions are the directions of traffic that wslmirror supports. Older daemons have
	// none.
	Directions []Direction `json:"directions,omitempty"`
	// Degraded is what an active daemon leaves out because the kernel lacks what it needs.
	// The daemon starts to do it as soon as the kernel has it.
	Degraded []Lack `json:"degraded,omitempty"`
	// Ports are the ports that container engines publish.
	Ports []Port `json:"ports"`
	// SourcePorts are the ports that WSL has reserved in Windows for connections from
	// Linux, as its own masquerade rule says; nil if there is no such rule.
	SourcePorts *PortRange `json:"reserved_in_windows,omitempty"`
	Version     string     `json:"version"`
	// PID is the daemon's process ID in its own PID namespace.
	PID int `json:"pid,omitempty"`
	// Since is when the state began, Updated when the kernel was last read.
	Since   time.Time `json:"since,omitzero"`
	Updated time.Time `json:"updated,omitzero"`
}

// An Interface is the link on which Windows' localhost traffic arrives.
type Interface struct {
	Name    string `json:"name"`
	Index   int    `json:"index"`
	Present bool   `json:"present"`
}

// A Table names the nftables table and says whether this daemon has installed it.
type Table struct {
	Family    string `json:"family"`
	Name      string `json:"name"`
	Installed bool   `json:"installed"`
}

// A Rule is the counter of our rules for Windows' localhost. A nat rule sees only the first
// packet of each flow, so the number of packets is the number of connections.
type Rule struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// A Direction is one direction of traffic: from which clients to which servers.
type Direction struct {
	Name   string `json:"name"`
	Active bool   `json:"active"`
	// Reason says why it is not active, or what it leaves out.
	Reason string `json:"reason,omitempty"`
	// Ports are the ports of ContainersToWindows, like 8080/tcp.
	Ports []string `json:"windows_ports,omitempty"`
	// Connections is how many connections were counted; for ClosedPorts, how many were
	// refused.
	Connections uint64 `json:"connections"`
}

// A Lack is a feature that is left out, and the reason.
type Lack struct {
	Feature string `json:"feature"` // as text, like "closed ports"
	Reason  string `json:"reason"`
	// Fix are the commands that help. A line that begins with "#" is a comment for users.
	Fix []string `json:"fix"`
}

// NoPorts is the Reason of ContainersToWindows if the user has named no port.
const NoPorts = "--to-windows lists no ports"

// The names of directions.
const (
	FromWindows         = "from-windows"          // to ports that containers publish
	FromLinux           = "from-linux"            // to the same ports, on localhost
	ClosedPorts         = "closed-ports"          // refusals for Linux's clients of 127.0.0.1
	OwnAddress          = "own-address"           // from Linux to its own LAN address
	ContainersToWindows = "containers-to-windows" // to servers on Windows' 127.0.0.1
)

// A Port is a port that a container engine publishes.
type Port struct {
	Proto string `json:"proto"` // tcp or udp
	Port  uint16 `json:"port"`
	// Address is the address on which it is published: 0.0.0.0 or 127.0.0.1.
	Address string `json:"address"`
	Target  string `json:"target"` // the container's address and port, if known
	Engine  string `json:"engine"`
	Path    string `json:"path"` // the path from a client on localhost
	// Reason says why the path is not direct, if the user chose that.
	Reason string `json:"reason,omitempty"`
	// Holder says whose socket announces the port to Windows: "engine", "program",
	// "wslmirror", "unknown", or "nobody". HolderReason says why nobody's does. The daemon
	// does not know; the commands add it.
	Holder       string `json:"holder,omitempty"`
	HolderReason string `json:"holder_reason,omitempty"`
}

// Excepted is the Reason of a Port that is left alone.
const Excepted = "--except lists it"

// ByEngine reports whether an engine that is known by name has published p. Other rules
// that redirect a port are named by table and chain (nft/ruleset/analysis.go).
func (p Port) ByEngine() bool { return !strings.Contains(p.Engine, " ") }

// Proxied reports whether an engine's proxy serves p. Among the engines whose ports take
// PathProxy, only Docker has a proxy; systemd-nspawn, for example, has none.
func (p Port) Proxied() bool { return p.Path == PathProxy && p.Engine == "docker" }

// A PortRange is a range of ports, both ends inclusive.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Contains reports whether port lies in r.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Size returns the number of ports in r; 0 for the zero PortRange.
func (r PortRange) Size() int {
	if r == (PortRange{}) {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// The paths of a Port.
const (
	PathDirect = "direct" // the kernel serves it, by our rule
	PathProxy  = "proxy"  // to the listener in Linux, like the engine's userland proxy
	PathKernel = "kernel" // the kernel serves it, by the publisher's rules
)

// Sentence describes the state to users in one line. It says what was done, and nothing
// that was not checked.
func (s Snapshot) Sentence() string {
	switch s.State {
	case Active:
		installed := "rules are installed for packets that arrive on " + s.Interface.Name
		if len(s.Degraded) > 0 {
			var left []string
			for _, l := range s.Degraded {
				left = append(left, l.Feature)
			}
			return installed + "; degraded, because the kernel does not support: " + strings.Join(left, ", ")
		}
		return installed
	case Waiting:
		if s.Interface.Name != DefaultInterface {
			return fmt.Sprintf("there is no %s, which --interface names; WSL's own is %s", s.Interface.Name, DefaultInterface)
		}
		return fmt.Sprintf("there is no %s; it exists only in the modes with a shared localhost (mirrored, consomme)", s.Interface.Name)
	case Standby:
		return "another wslmirror in this VM is active; this one takes over if it stops"
	case Stopped:
		if s.Reason != "" {
			return s.Reason
		}
		return "wslmirror is not running"
	default:
		return cmp.Or(s.Reason, "the reason is unknown")
	}
}

// String returns the state and its sentence.
func (s Snapshot) String() string { return string(s.State) + ": " + s.Sentence() }

const (
	fileName   = "status.json"
	socketName = "wslmirror.sock"
	// maxSize is far more than any snapshot needs. A larger file is not ours.
	maxSize = 8 << 20
)

// Write publishes s in dir. Readers see either the old file or the new one.
func Write(dir string, s Snapshot) error {
	b, err := encode(s)
	if err != nil {
		return err
	}
	return write(dir, fileName, b)
}

func write(dir, name string, b []byte) error {
	f, tmp, err := create(dir, name)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	// A service's umask is 0022 or stricter, and any user may read this file.
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

func encode(s Snapshot) ([]byte, error) {
	s.Schema = Schema
	if s.Ports == nil {
		s.Ports = []Port{} // never null
	}
	b, err := json.MarshalIndent(s, "", "  ")
	return append(text.JSON(b), '\n'), err
}

func decode(b []byte) (s Snapshot, err error) {
	// In another schema any field may be different.
	var is struct{ Schema int }
	if err := json.Unmarshal(b, &is); err != nil {
		return Snapshot{}, err
	}
	if is.Schema < 0 || is.Schema > Schema {
		return Snapshot{}, &SchemaError{is.Schema}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Snapshot{}, err
	}
	if s.Schema == 0 { // its directions have other fields
		s.Directions = nil
	}
	if s.Ports == nil {
		s.Ports = []Port{} // never null
	}
	return s, nil
}

// A SchemaError says that a daemon has published a snapshot that this program does not
// understand, because the daemon is another version.
type SchemaError struct{ Schema int }

func (e *SchemaError) Error() string {
	return fmt.Sprintf("the daemon publishes schema %d, but this program knows schema %d: their versions differ", e.Schema, Schema)
}

// create creates a new file beside the snapshot. If others have put something there under
// its name, create does not open or follow it.
func create(dir, name string) (*os.File, string, error) {
	tmp := filepath.Join(dir, "."+name+".new")
	open := func() (*os.File, error) { return os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) }
	f, err := open()
	if errors.Is(err, fs.ErrExist) { // left by a killed daemon
		if err := os.Remove(tmp); err != nil {
			return nil, "", err
		}
		f, err = open()
	}
	return f, tmp, err
}

// Remove removes the snapshot. If there is none, that is not an error.
func Remove(dir string) error { return remove(dir, fileName) }

func remove(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Read reads the snapshot in dir. The error is fs.ErrNotExist if there is none.
func Read(dir string) (Snapshot, error) {
	b, err := read(dir, fileName)
	if err != nil {
		return Snapshot{}, err
	}
	s, err := decode(b)
	if other := (*SchemaError)(nil); errors.As(err, &other) {
		return s, err
	}
	if err != nil {
		return s, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, fileName), err)
	}
	return s, nil
}

func read(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	// Another user may have created the directory: follow no link, and do not block on a
	// pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a link, not a snapshot", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("%s is too large for a snapshot", path)
	}
	return b, nil
}
