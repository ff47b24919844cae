package main

const usage = `mirrorlab - WSL2's mirrored networking mode, rebuilt in network namespaces

Usage:
  mirrorlab demo [--wslmirror PATH]
  mirrorlab shell
  mirrorlab help

Commands:
  demo     Show who answers on 127.0.0.1 without wslmirror, with it, and after
           it has stopped. It takes a few seconds.
             --wslmirror PATH    the program (the wslmirror beside mirrorlab)
  shell    Run $SHELL in "WSL" until it exits, with the command 'windows' to run
           other commands in "Windows". What it leaves running ends with it.
  help     Print this.

Both need root and a kernel with nf_tables, and nothing else ('windows' needs
nsenter): no Windows, no WSL, no container engine. They do not touch the network
of this machine, and leave nothing behind. NO_COLOR turns colours off.

Exit status:
  0  success; for demo: all is as it should be; for shell: the shell's own
  1  failure, or interrupted
  2  wrong usage
`
