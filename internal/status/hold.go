package status

import (
	"encoding/json"
	"fmt"

	"github.com/wslmirror/wslmirror/internal/text"
)

// A Hold is what the holder publishes, the process of "wslmirror hold". Its JSON form is an
// interface, like that of a Snapshot.
type Hold struct {
	// Held are the ports that it holds for Windows, like 8080/tcp.
	Held []string `json:"held"`
	// Refused are the ports that it should hold and could not.
	Refused []Refusal `json:"refused"`
}

// A Refusal is a port that could not be held.
type Refusal struct {
	Port string `json:"port"` // like 8080/tcp
	// Windows says that, as far as the holder can tell, Windows refused the port.
	Windows bool `json:"by_windows"`
	// Reason is what the holder knows, as text.
	Reason string `json:"reason"`
}

const holdName = "hold.json"

// HoldDir returns the runtime directory of the holder that belongs to the daemon that
// publishes in dir.
func HoldDir(dir string) string { return dir + "-hold" }

// WriteHold publishes h in dir, a HoldDir.
func WriteHold(dir string, h Hold) error {
	if h.Held == nil {
		h.Held = []string{} // never null
	}
	if h.Refused == nil {
		h.Refused = []Refusal{}
	}
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return err
	}
	return write(dir, holdName, append(text.JSON(b), '\n'))
}

// ReadHold reads what the holder has published in dir, a HoldDir. The error is
// fs.ErrNotExist if no holder has published there.
func ReadHold(dir string) (h Hold, err error) {
	b, err := read(dir, holdName)
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return Hold{}, fmt.Errorf("%s in %s is damaged: %w", holdName, dir, err)
	}
	return h, nil
}

// RemoveHold removes what WriteHold published.
func RemoveHold(dir string) error { return remove(dir, holdName) }
