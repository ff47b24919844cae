package systemd

import _ "embed"

// Unit and HoldUnit are the units of the daemon and the holder as they are packaged, for
// code that must know their sandbox. The program itself does not use them, so its binary
// does not contain them.
var (
	//go:embed wslmirror.service
	Unit string
	//go:embed wslmirror-hold.service
	HoldUnit string
)
