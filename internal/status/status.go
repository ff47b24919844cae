// Package status is what the daemon tells everybody: a snapshot in a file that
// any user may read, and a socket by which any user may have it brought up to
// date.
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

// The states.
const (
	Active  State = "active"  // the rules are in the kernel
	Waiting State = "waiting" // there is no loopback0
	Standby State = "standby" // another wslmirror in this VM is active
	Stopped State = "stopped" // no daemon is running here
	Error   State = "error"   // the daemon fails, and tries again
)

// Schema is the number of the Snapshot's JSON form. Under the same number fields are
// added, never renamed or removed (docs/json.md).
const Schema = 1

// A Snapshot is the state of the daemon at one moment. Its JSON form is an interface.
type Snapshot struct {
	// Schema is 0 if a daemon from before schema 1 has written it. Where it is written it
	// is always Schema.
	Schema int   `json:"schema"`
	State  State `json:"state"`
	// Reason says why the state is not active, if there is more to say.
	Reason    string    `json:"reason,omitempty"`
	Interface Interface `json:"interface"`
	// Mode is WSL's networking mode as a word of netwatch.Mode, "" where that could not
	// be read.
	Mode string `json:"mode,omitempty"`
	// Path is how a published port of an engine with a userland proxy should be
	// reached: PathProxy or PathDirect.
	Path  string `json:"path"`
	Table Table  `json:"table"`
	Rule  Rule   `json:"rule"`
	// Directions are who is helped to reach whom. A daemon that is older has none.
	Directions []Direction `json:"directions,omitempty"`
	// Degraded is what an active daemon leaves out, because the kernel lacks what it
	// needs. The daemon takes it on when the kernel has it.
	Degraded []Lack `json:"degraded,omitempty"`
	// Ports are the ports that container engines publish.
	Ports []Port `json:"ports"`
	// SourcePorts are the ports that WSL has reserved in Windows for connections
	// of Linux, by its own masquerade rule; nil where there is no such rule.
	SourcePorts *PortRange `json:"reserved_in_windows,omitempty"`
	Version     string     `json:"version"`
	// PID is the daemon's, in its own PID namespace.
	PID int `json:"pid,omitempty"`
	// Since is when the state was entered, Updated when the kernel was last read.
	Since   time.Time `json:"since,omitzero"`
	Updated time.Time `json:"updated,omitzero"`
}

// An Interface is the link by which Windows' localhost traffic comes.
type Interface struct {
	Name    string `json:"name"`
	Index   int    `json:"index"`
	Present bool   `json:"present"`
}

// A Table names the nftables table and says whether this daemon has it in the
// kernel.
type Table struct {
	Family    string `json:"family"`
	Name      string `json:"name"`
	Installed bool   `json:"installed"`
}

// A Rule is the counter of our rules for Windows' localhost. A nat rule sees the first
// packet of each flow, so that these packets are as many as connections.
type Rule struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// A Direction is who is helped to reach whom.
type Direction struct {
	Name   string `json:"name"`
	Active bool   `json:"active"`
	// Reason says why it is not active, or what it leaves out.
	Reason string `json:"reason,omitempty"`
	// Ports are those of ContainersToWindows, as in 8080/tcp.
	Ports []string `json:"windows_ports,omitempty"`
	// Connections are those that were counted; of ClosedPorts, those that were refused.
	Connections uint64 `json:"connections"`
}

// A Lack is what is left out, and for want of what.
type Lack struct {
	Feature string `json:"feature"` // in words, like "closed ports"
	Reason  string `json:"reason"`
	// Fix is the commands that help. One that begins with "#" is for people.
	Fix []string `json:"fix"`
}

// NoPorts is the Reason of ContainersToWindows where nobody has asked for it.
const NoPorts = "--to-windows lists no ports"

// The names of directions.
const (
	FromWindows         = "from-windows"          // to ports that containers publish
	FromLinux           = "from-linux"            // the same on localhost
	ClosedPorts         = "closed-ports"          // of 127.0.0.1 refuse Linux's clients
	OwnAddress          = "own-address"           // from Linux to its address of the LAN
	ContainersToWindows = "containers-to-windows" // to servers on Windows' 127.0.0.1
)

// A Port is a port that a container engine publishes.
type Port struct {
	Proto string `json:"proto"` // tcp or udp
	Port  uint16 `json:"port"`
	// Address is where it is published: 0.0.0.0 or 127.0.0.1.
	Address string `json:"address"`
	Target  string `json:"target"` // the container's address and port, if known
	Engine  string `json:"engine"`
	Path    string `json:"path"` // how a client of localhost reaches it
	// Reason says why the path is not direct, where that is what the user chose.
	Reason string `json:"reason,omitempty"`
	// Holder says by whose socket Windows learns of the port: "engine", "program",
	// "wslmirror", "unknown", or "nobody". HolderReason says why by nobody's. The daemon
	// does not know; the commands add it.
	Holder       string `json:"holder,omitempty"`
	HolderReason string `json:"holder_reason,omitempty"`
}

// Excepted is the Reason of a Port for which nothing is done.
const Excepted = "--except lists it"

// ByEngine reports whether an engine that is known by its name has published p. Other rules
// that send a port elsewhere are called by table and chain (nft/ruleset/analysis.go).
func (p Port) ByEngine() bool { return !strings.Contains(p.Engine, " ") }

// Proxied reports whether a proxy of the engine serves p. Of those whose ports take the path
// PathProxy only Docker has one: systemd-nspawn, for example, has none.
func (p Port) Proxied() bool { return p.Path == PathProxy && p.Engine == "docker" }

// A PortRange is a range of ports, both ends inclusive.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Contains reports whether port lies in r.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Size is how many ports r has; the zero PortRange has none.
func (r PortRange) Size() int {
	if r == (PortRange{}) {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// The paths of a Port.
const (
	PathDirect = "direct" // the kernel serves it, by a rule of ours
	PathProxy  = "proxy"  // to whoever listens in Linux, as the engine's userland proxy does
	PathKernel = "kernel" // the kernel serves it, by the rules of who published it
)

// Sentence says in one line what the state means, for people. It says what was done,
// and nothing that was not checked.
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

// String is the state and its sentence.
func (s Snapshot) String() string { return string(s.State) + ": " + s.Sentence() }

const (
	fileName   = "status.json"
	socketName = "wslmirror.sock"
	// maxSize is far more than any snapshot has. A larger file is not ours.
	maxSize = 8 << 20
)

// Write publishes s in dir. Readers see the old file or the new one.
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
	// The umask of a service is 0022 or stricter, and any user may read this.
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

func encode(s Snapshot) ([]byte, error) {
	s.Schema = Schema
	if s.Ports == nil {
		s.Ports = []Port{} // an empty list, never null
	}
	b, err := json.MarshalIndent(s, "", "  ")
	return append(text.JSON(b), '\n'), err
}

func decode(b []byte) (s Snapshot, err error) {
	// Of another schema anything may be different.
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

// A SchemaError says that a daemon has published what this program does not understand,
// because it is another version.
type SchemaError struct{ Schema int }

func (e *SchemaError) Error() string {
	return fmt.Sprintf("the daemon publishes schema %d, but this program knows schema %d: their versions differ", e.Schema, Schema)
}

// create makes a new file beside the snapshot. Nothing that others may have put
// there under its name is opened or followed.
func create(dir, name string) (*os.File, string, error) {
	tmp := filepath.Join(dir, "."+name+".new")
	open := func() (*os.File, error) { return os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) }
	f, err := open()
	if errors.Is(err, fs.ErrExist) { // of a daemon that was killed
		if err := os.Remove(tmp); err != nil {
			return nil, "", err
		}
		f, err = open()
	}
	return f, tmp, err
}

// Remove takes the snapshot back. That there is none is not an error.
func Remove(dir string) error { return remove(dir, fileName) }

func remove(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Read reads the snapshot in dir. The error is fs.ErrNotExist where there is
// none.
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
	// The directory may not be what it seems: follow no link, hang on no pipe.
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
