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
  shell    Run $SHELL in "WSL" until it exits, with the command 'windows' to run
           other commands in "Windows". What it leaves running ends with it.
  matrix   Ask every way to a container of every real engine: with nothing, with
           the blanket rule that people type by hand, and with wslmirror, in
           each networking mode. It takes a minute, and the first time some more
           to build the engines.
             --markdown          as the README and docs/bench.md have it
             --mode MODE         only this one
             --engine NAME       only this one, for example podman-cni
  directions
           Ask every other way: from containers to Windows, to the machine's own
           LAN address, to closed ports; with every real engine, without
           wslmirror and with it, in each networking mode. It takes a minute.
             --markdown          as docs/directions.md has it
             --mode, --engine    as for matrix
  bench    Measure the ways to a container, from Windows and from Linux: by
           docker-proxy, direct, and as fast as the kernel can; beside them a
           server without a container, with wslmirror and without. It wants wrk,
           and takes ten minutes.
             --engine NAME       docker-iptables (the default: a new one),
                                 docker-nftables or docker-20.10
             --trial NAME        only this: keepalive, newconns, bulk, latency,
                                 udp or many
             --only WAY,...      only these: proxy, direct, limit, server (with
                                 wslmirror) or alone (without)
             --rounds N          how often each is measured, in turn (10)
             --seconds S         how long (1)
             --json, --markdown  for programs, and as the README has it
             --svg FILE          draw the plot
             --readme FILE       write the Markdown to its place in FILE
             --wslmirror PATH    the program (the wslmirror beside mirrorlab)
  chaos    Break links, rulesets, rules, sysctls, engines and the daemons, and
           check after each burst of faults that all is as it should within a
           second. Print how long it took to heal. 1000 faults take a minute.
             --seed N            which faults come (one that is drawn, and told)
             --steps N           how many faults, of all worlds (1000)
             --path both         the daemons' path, or half of the worlds each
             --worlds N          how many at a time, of each path (1); 6 in all
             --rest 0s           how long to wait after each burst
             --verbose           print each fault
  soak     A storm of events for a minute; then containers come and go and
           daemons take over from one another while clients ask, of whom none
           should notice. Print what that cost.
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

All need root and a kernel with nf_tables. All but field need no Windows, no
WSL, and no container engine of the machine. All but shell and field run
wslmirror with the rights of its service, for which they need setpriv and, but
for the demo, systemd-analyze. The command 'windows' of the shell needs nsenter;
chaos and soak also nft, ip and unshare. The matrix, directions and bench take
engines from Debian trees and from source, in a cache. All but field leave the
network of this machine alone. Nothing is left behind, but a folder in $TMPDIR
if mirrorlab is killed. NO_COLOR turns colours off.

Exit status:
  0  success; for all but shell and bench: all is as it should be; for field:
     nothing differs from the bench
  1  failure, or interrupted
  2  wrong usage
  shell has the exit status of its shell
`
