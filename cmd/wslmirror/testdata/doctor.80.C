#### a fault
$ wslmirror doctor
[x] fault ip-rules: localhost from Linux: the rule "0: from all ipproto tcp
  lookup main" is ahead of WSL's rules
    WSL's rules send TCP and UDP for localhost to Windows and back. A rule ahead
    of them sends these packets elsewhere.
        sudo ip rule add pref 3 from all ipproto tcp lookup main
        sudo ip rule del pref 0 from all ipproto tcp lookup main

[!] warning port-headroom: 8 of 10 ports (80 %) are in use to 192.0.2.1:7000
    https://github.com/microsoft/WSL/issues/11450

[?] unknown   table       could not check the rules: only root can read the
                          ruleset
[ok]          wsl         kernel 6.18.44, networking mode mirrored
[ok]          table-127   127.0.0.1 via 169.254.73.249 on loopback0
Not applicable here: podman

1 fault, 1 warning, 1 unknown, 2 ok (sudo shows more)
More on each check: https://github.com/wslmirror/wslmirror/blob/main/docs/doctor.md

#### outside WSL
$ wslmirror doctor
This is not WSL (kernel 6.1.0, no wslinfo): the checks of what WSL sets up do
not apply.

[ok]   port-tracker   bind() works
Not applicable here: wsl, loopback0

No fault found: 1 ok

