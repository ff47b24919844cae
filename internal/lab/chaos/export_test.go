package chaos

import "errors"

// DaemonAndCleanup starts a world, with its daemon, and calls fn with the daemon's
// process. Then it cleans up, and returns what that has said.
func DaemonAndCleanup(cfg Config, fn func(pid int)) (said string, err error) {
	w, err := newWorld(cfg)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	d := w.daemons[0]
	if err := d.awaitStart(); err != nil {
		return "", err
	}
	fn(d.proc.Process.Pid)
	return w.cleanup()
}
