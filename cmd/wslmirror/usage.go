package main

const usage = `wslmirror - one 127.0.0.1 for Windows and Linux, in the WSL2 modes
with a shared localhost (mirrored, consomme)

Usage:
  wslmirror run [--interface NAME] [--path proxy|direct] [--repair=false]
                [--to-windows PORT[/udp],...] [--except PORT[/tcp|/udp],...]
                [--user NAME] [--runtime-dir DIR] [--log-level LEVEL]
  wslmirror hold [--runtime-dir DIR] [--log-level LEVEL]
  wslmirror status [--watch] [--json] [--runtime-dir DIR]
  wslmirror trace PORT[/udp] [--from CLIENT] [--live [SECONDS]] [--json]
  wslmirror ports [--json] [--runtime-dir DIR]
  wslmirror ports [explain] PORT[/udp] [--json] [--runtime-dir DIR]
  wslmirror ports free [N] [--from PORT[/udp]] [--json] [--runtime-dir DIR]
  wslmirror doctor [--json | --bundle FILE] [--runtime-dir DIR]
  wslmirror log [--since TIME] [-f]
  wslmirror cleanup
  wslmirror version
  wslmirror help [COMMAND]

Commands:
  run      Run the daemon in the foreground. It needs CAP_NET_ADMIN, and undoes
           all that it has done when it gets SIGTERM or SIGINT.
             --interface NAME    where Windows' localhost traffic comes from (loopback0)
             --path PATH         how published ports are reached: through the
                                 engine's userland "proxy" (the default), or
                                 "direct", which is faster: the kernel sends
                                 the packets to the container itself
             --repair=false      leave alone what Linux's own clients cannot
                                 reach, closed ports that do not answer, what
                                 Docker drops because loopback0 came late, and
                                 what others remove of WSL's
             --to-windows PORTS  let containers reach these ports of Windows'
                                 127.0.0.1, like 11434,9003,53/udp, through
                                 host.docker.internal or this machine's
                                 address; every container can then use them
             --except PORTS      leave these ports alone in every direction
             --user NAME         the user that it becomes when root starts it; it
                                 keeps only CAP_NET_ADMIN (nobody; "root" keeps
                                 all rights)
             --runtime-dir DIR   where the state is published (/run/wslmirror)
             --log-level LEVEL   error, warning, info or debug (info)
  hold     Hold the published ports that no socket in Linux holds, so that Windows
           sends them to Linux. It runs beside the daemon, in the foreground, and
           needs CAP_NET_BIND_SERVICE for ports below 1024.
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
             --log-level LEVEL   error, warning, info or debug (info)
  status   Show what the daemon is doing. Any user may ask.
             --watch             go on, and show what changes, until ^C
             --json              for programs; see wslmirror-json(5)
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  trace    Follow a packet to a port and the answer to it: links, ip rules, chains of
           nftables, and who listens at the end. Where it stops: why, and what to
           type. It sends nothing. Any user may ask; only root sees the rules.
             --from CLIENT       windows, linux, lan or container:NAME (windows
                                 and linux)
             --live [SECONDS]    then count real packets, and mark what differs
                                 from the forecast, for so long (10) or until
                                 ^C; as root
             --json              for programs; see wslmirror-json(5)
  ports    List ports and who uses them, in Linux and in Windows, and how many
           source ports are left. Any user may ask; root sees more.
             explain PORT        who has that port, or why it cannot be had, and
                                 what to type
             free [N]            the next free port, or the next N; not those that
                                 Windows keeps for itself
             --from PORT         where free begins to look (8080)
             --json              for programs; see wslmirror-json(5)
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  doctor   Show what is wrong where Windows and Linux share localhost, and what
           to type.
           It only looks, and takes at most five seconds. Any user may ask; with
           sudo it sees more.
             --json              for programs; see wslmirror-json(5)
             --bundle FILE       write all that helps with a bug report to a new
                                 file, without names and public addresses
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  log      Show what the daemon has done, from the journal of the service. It
           takes a user who may read that (root, or the group adm).
             --since TIME        30m, 2h, today, or "2026-11-27 10:00" (all)
             -f                  go on, and show what comes, until ^C
  cleanup  Remove what a daemon that crashed has left behind.
  version  Print the version.
  help     Print this, or what is said of one command.

Exit status:
  0   success; for status: active; for trace: each client reaches the port; for ports
      explain: free; for doctor: no fault found
  1   failure; for trace: one client does not; for ports explain: taken or blocked; for
      doctor: a fault found
  2   wrong usage
  3   for status: not active (waiting, standby or stopped); for trace: not certain;
      for ports explain and ports free: not known, since Windows could not be asked
  78  run, hold: bad options; systemd does not restart the service

Environment:
  WSLMIRROR_RUNTIME_DIR   stands for --runtime-dir where that is not given
  WSLMIRROR_HOLD          false: "wslmirror hold" holds nothing, and ends
  NO_COLOR                turns colours off

As a service:
  systemctl enable --now wslmirror     settings are in /etc/default/wslmirror
`
