package main

const usage = `mirrorlab - WSL2's mirrored networking mode, rebuilt in network namespaces

Usage:
  mirrorlab demo [--wslmirror PATH]
  mirrorlab shell
  mirrorlab matrix [--markdown] [--engine NAME] [--wslmirror PATH]
  mirrorlab help

Commands:
  demo     Show who answers on 127.0.0.1 without wslmirror, with it, and after
           it has stopped. It takes a few seconds.
             --wslmirror PATH    the program (the wslmirror beside mirrorlab)
  shell    Run $SHELL in "WSL" until it exits, with the command 'windows' to run
           other commands in "Windows". What it leaves running ends with it.
  matrix   Ask every way to a container of every real engine: with nothing, with
           the blanket rule that people type by hand, and with wslmirror. It
           takes a minute, and the first time some more to build the engines.
             --markdown          as the README has it
             --engine NAME       only this one, for example podman-cni
  help     Print this.

All need root and a kernel with nf_tables. The demo and the shell need nothing
else ('windows' needs nsenter): no Windows, no WSL, no container engine. The
matrix takes its engines from Debian trees and from source, all in a cache. The
network of this machine is not touched, and nothing is left behind. NO_COLOR
turns colours off.

Exit status:
  0  success; for demo and matrix: all is as it should be
  1  failure, or interrupted
  2  wrong usage
  shell has the exit status of its shell
`
