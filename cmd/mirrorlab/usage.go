package main

const usage = `mirrorlab - WSL2's modes with a shared localhost, rebuilt in network namespaces

Usage:
  mirrorlab demo [--mode MODE] [--wslmirror PATH]
  mirrorlab shell [--mode MODE]
  mirrorlab matrix [--markdown] [--engine NAME] [--mode MODE]
                   [--wslmirror PATH]
  mirrorlab directions [--markdown] [--engine NAME] [--mode MODE]
                       [--wslmirror PATH]
  mirrorlab bench [--mode MODE] [--engine NAME] [--trial NAME] [--only WAY,...]
                  [--rounds N] [--seconds S]
                  [--json | --markdown] [--svg FILE] [--readme FILE]
                  [--wslmirror PATH]
  mirrorlab chaos [--seed N] [--steps N] [--path proxy|direct|both] [--worlds N]
                  [--rest TIME] [--mode MODE] [--verbose] [--wslmirror PATH]
  mirrorlab soak [--for TIME] [--path proxy|direct] [--seed N]
                 [--mode MODE] [--wslmirror PATH]
  mirrorlab field [--yes] [--report NAME] [--wslmirror PATH]
  mirrorlab help

Commands:
  demo     Show who answers on localhost without wslmirror, with it, and after
           it has stopped. It takes a few seconds.
             --wslmirror PATH    the program (the wslmirror beside mirrorlab)
  shell    Run $SHELL in "WSL" until it exits. The command 'windows' runs other
           commands in "Windows". Processes that it leaves running end with it.
  matrix   Send requests to the containers of every real engine: without any
           cure, with the blanket rule that people type by hand, and with
           wslmirror, in each networking mode. This takes a minute, and some
           minutes more the first time, to build the engines.
             --markdown          as docs/bench.md has it
             --mode MODE         only this one
             --engine NAME       only this one, for example podman-cni
  directions
           Send the other requests: from containers to Windows, to the machine's
           own LAN address, to closed ports; with every real engine, without
           wslmirror and with it, in each networking mode. This takes a minute.
             --markdown          as docs/directions.md has it
             --mode, --engine    as for matrix
  bench    Measure the paths to a container, from Windows and from Linux:
           through docker-proxy, direct, and as fast as the kernel can; and a
           server outside containers, with wslmirror and without. This needs wrk
           and takes ten minutes.
             --engine NAME       docker-iptables (the default: a new one),
                                 docker-nftables or docker-20.10
             --trial NAME        only this: keepalive, newconns, bulk, latency,
                                 udp or many
             --only WAY,...      only these: proxy, direct, limit, server (with
                                 wslmirror) or alone (without)
             --rounds N          how often each is measured, in turn (10)
             --seconds S         how long (1)
             --json, --markdown  for programs, and as docs/performance.md has it
             --svg FILE          draw the plot
             --readme FILE       write the Markdown to its place in FILE
             --wslmirror PATH    the program (the wslmirror beside mirrorlab)
  chaos    Break links, rulesets, rules, sysctls, engines, daemons and holders.
           After each burst of faults, check that everything is right within a
           second. Print how long repairs took. 1000 faults take a minute.
             --seed N            selects the faults (random, and printed)
             --steps N           how many faults, of all worlds (1000)
             --path both         the daemons' path, or half of the worlds each
             --worlds N          how many at a time, of each path (1); at most 4
             --rest 0s           how long to wait after each burst
             --verbose           print each fault
  soak     Cause a storm of events for a minute. Then start and stop containers
           and daemons while clients send requests; none of them should notice.
           Print what that cost.
             --for 30m           how long
             --path direct       the daemons' path
             --seed N            what comes and goes (1)
  field    Compare a real WSL with the bench, in two minutes: send requests
           between Linux, containers of Docker and Podman, and Windows (by
           curl.exe and PowerShell), without wslmirror and with it. It says
           what it will do, and asks; it puts everything back. The report has
           no names of users and hosts and no public addresses.
             --yes               do not ask
             --report NAME       write NAME.md and NAME.json (wslmirror-field)
  help     Print this.

MODE is mirrored (the default, but for matrix and directions), mirrored-hal
(mirrored with hostAddressLoopback=true) or consomme (virtioproxy until WSL
2.9).

All need root and a kernel with nf_tables. None but field needs Windows, WSL, or
a container engine on this machine. All but shell and field run wslmirror with
the rights of its service, for which they need setpriv and, except for the demo,
systemd-analyze. The command 'windows' of the shell needs nsenter; chaos and
soak also need nft, ip and unshare. The matrix, directions and bench run engines
from Debian trees and from source, in a cache. None but field touches this
machine's own network. Nothing is left behind, except a folder in $TMPDIR if
mirrorlab is killed. NO_COLOR turns colours off.

Exit status:
  0  success; for all but shell and bench: everything is right; for field:
     nothing differs from the bench
  1  failure, or interrupted
  2  wrong usage
  shell has the exit status of its shell
`
