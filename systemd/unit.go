package systemd

import _ "embed"

// Unit is the unit of the service as it is packaged. It is for what has to know the
// sandbox that it asks for; the daemon does not, and has it not in its binary.
//
//go:embed wslmirror.service
var Unit string
