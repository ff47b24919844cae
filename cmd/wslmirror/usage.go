package main

const usage = `wslmirror - one 127.0.0.1 for Windows and Linux in WSL2's mirrored mode

Usage:
  wslmirror run [--interface NAME] [--path proxy] [--repair] [--runtime-dir DIR] [--log-level LEVEL]
  wslmirror status [--json] [--runtime-dir DIR]
  wslmirror cleanup
  wslmirror version
  wslmirror help

Commands:
  run      Be the daemon, in the foreground. It needs CAP_NET_ADMIN, and undoes
           all that it has done when it gets SIGTERM or SIGINT.
             --interface NAME    where Windows' localhost traffic comes from (loopback0)
             --path proxy        how published ports are reached: through the
                                 engine's userland proxy
             --repair            let Linux's own clients reach what the kernel
                                 serves on localhost (true)
             --runtime-dir DIR   where the state is published (/run/wslmirror)
             --log-level LEVEL   error, warning, info or debug (info)
  status   Say what the daemon is doing. Any user may ask.
             --json              for programs; the fields are in wslmirror(8)
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  cleanup  Remove what a daemon that crashed has left behind.
  version  Print the version.
  help     Print this.

Exit status:
  0  success; for status: active
  1  failure
  2  wrong usage
  3  status: not active (waiting, standby or stopped)

As a service:
  systemctl enable --now wslmirror     settings are in /etc/default/wslmirror
`
