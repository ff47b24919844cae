package systemd

import _ "embed"

// Unit and HoldUnit are the units of the daemon and the holder as they are packaged. They
// are for what has to know the sandbox that they ask for; the program does not, and has
// them not in its binary.
var (
	//go:embed wslmirror.service
	Unit string
	//go:embed wslmirror-hold.service
	HoldUnit string
)
