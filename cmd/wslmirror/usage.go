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
  run      Run the daemon in the foreground. It needs CAP_NET_ADMIN. On SIGTERM or
           SIGINT it removes everything that it added, and exits.
             --interface NAME    the link on which Windows' localhost arrives
                                 (loopback0)
             --path PATH         how packets reach published ports: "proxy" (the
                                 default) sends them to the engine's userland
                                 proxy; "direct" is faster: the kernel sends them
                                 to the container itself
             --repair=false      turn the repairs off: for Linux's own clients of
                                 published ports, for closed ports that do not
                                 answer, for packets that Docker drops because
                                 loopback0 appeared late, and for parts of WSL's
                                 setup that other programs remove
             --to-windows PORTS  let containers reach these ports of Windows'
                                 127.0.0.1, for example 11434,9003,53/udp, through
                                 host.docker.internal or this machine's address;
                                 every container can then use them
             --except PORTS      leave these ports alone in every direction
             --user NAME         the user that it becomes when root starts it; it
                                 keeps only CAP_NET_ADMIN (nobody; "root" keeps
                                 all rights)
             --runtime-dir DIR   where the daemon publishes its state
                                 (/run/wslmirror)
             --log-level LEVEL   error, warning, info or debug (info)
  hold     Hold published ports that have no socket in Linux, so that Windows sends
           their packets to Linux. It runs beside the daemon, in the foreground, and
           needs CAP_NET_BIND_SERVICE for ports below 1024.
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
             --log-level LEVEL   error, warning, info or debug (info)
  status   Show what the daemon is doing. Any user may run it.
             --watch             keep running and show each change, until ^C
             --json              print JSON; see wslmirror-json(5)
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  trace    Follow a packet to a port, and the answer: links, ip rules, nftables
           chains, and the listener. Where the packet stops, show why, and what to
           type. It sends nothing. Any user may run it; only root sees the rules.
             --from CLIENT       windows, linux, lan or container:NAME (windows
                                 and linux)
             --live [SECONDS]    then count real packets, for so many seconds (10)
                                 or until ^C, and mark what differs from the
                                 forecast; needs root
             --json              print JSON; see wslmirror-json(5)
  ports    List ports and who uses them, in Linux and in Windows, and how many
           source ports are left. Any user may run it; root sees more.
             explain PORT        show who uses the port, or why it cannot be used,
                                 and what to type
             free [N]            print the next free port, or the next N, without
                                 those that Windows keeps for itself
             --from PORT         the first port that "free" tries (8080)
             --json              print JSON; see wslmirror-json(5)
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  doctor   Show what is wrong with the localhost that Windows and Linux share, and
           what to type.
           It only reads, and takes at most five seconds. Any user may run it; with
           sudo it sees more.
             --json              print JSON; see wslmirror-json(5)
             --bundle FILE       write everything that helps with a bug report to a
                                 new file, without names and public addresses
             --runtime-dir DIR   where the daemon publishes (/run/wslmirror)
  log      Show what the daemon has done, from the journal of the service. Only
           root and the group adm can read that.
             --since TIME        30m, 2h, today, or "2026-11-27 10:00" (all)
             -f                  keep running and show new lines, until ^C
  cleanup  Remove what a crashed daemon has left in the kernel.
  version  Print the version.
  help     Print this text, or the help of one command.

Exit status:
  0   success; for status: active; for trace: each client reaches the port; for ports
      explain: free; for doctor: no fault found
  1   failure; for trace: a client does not reach the port; for ports explain: taken or
      blocked; for doctor: a fault found
  2   wrong usage
  3   for status: not active (waiting, standby or stopped); for trace: not certain;
      for ports explain and ports free: unknown, because Windows could not be asked
  78  run, hold: bad options; systemd does not restart the service

Environment:
  WSLMIRROR_RUNTIME_DIR   the default of --runtime-dir
  WSLMIRROR_HOLD          false: "wslmirror hold" holds nothing, and exits
  NO_COLOR                turns colours off

As a service:
  systemctl enable --now wslmirror     settings are in /etc/default/wslmirror
`
