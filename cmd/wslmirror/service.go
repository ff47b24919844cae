package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/wslmirror/wslmirror/internal/status"
	"github.com/wslmirror/wslmirror/nft"
	"github.com/wslmirror/wslmirror/nft/ruleset"
	"github.com/wslmirror/wslmirror/systemd"
)

// systemdPatience is how long systemd may take to answer.
const systemdPatience = time.Second

// readService asks systemd about the service, if its daemon
// publishes in dir.
func readService(ctx context.Context, dir string) (systemd.UnitState, error) {
	if dir != status.DefaultDir || !systemd.Booted() {
		return systemd.UnitState{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, systemdPatience)
	defer cancel()
	return systemd.ReadUnit(ctx, "wslmirror.service")
}

// trouble says why the service is not running, "" if it has not failed.
func trouble(u systemd.UnitState) (text string) {
	switch {
	case u.Failed():
		text = "the service has failed"
	case u.Restarting() && u.Result == "success":
		text = "the service has ended and systemd is restarting it"
	case u.Restarting():
		text = "the service has failed and systemd is restarting it"
	default:
		return ""
	}
	switch u.Result {
	case "", "success":
	case "exit-code":
		text += fmt.Sprintf(" (exit status %d)", u.ExitStatus)
	default:
		text += " (" + u.Result + ")"
	}
	if u.Restarts > 1 {
		text += fmt.Sprintf(", %d restarts so far", u.Restarts)
	}
	if u.LastLine != "" {
		text += fmt.Sprintf(`; its last log line is "%s"`, u.LastLine)
	}
	return text
}

// badOptions reports whether the service has failed because of its options.
func badOptions(u systemd.UnitState) bool {
	return u.Failed() && u.Result == "exit-code" && u.ExitStatus == exitConfig
}

// servedElsewhere reports whether a daemon of another distribution is active in this network.
// The owner of the table is the evidence. A user who cannot read that connects to the beacon, which
// any process could fake (internal/mirror/beacon.go): good enough for a message.
func servedElsewhere() bool {
	if reader, err := ruleset.OpenReader(nft.TableName); err == nil {
		defer reader.Close()
		if owner, present, err := reader.Owner(nft.TableName); err == nil {
			return present && owner != 0
		}
	}
	conn, err := net.Dial("unix", "@wslmirror")
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
