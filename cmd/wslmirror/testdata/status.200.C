#### active
$ wslmirror status
[*] active: rules are installed for packets that arrive on loopback0

  Windows            Linux
  localhost:PORT --> loopback0 --> WSLPREROUTING --> 127.0.0.1:PORT

  interface   loopback0, index 3
  mode        mirrored
  table       ip wslmirror, installed
  path        proxy
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  DIRECTION               STATE   COUNTED
  from Windows            on      2 connections
  from Linux              on      1 connection
  closed ports            on      1 refused
  own address             off                     only with hostAddressLoopback in mirrored mode
  containers to Windows   on      3 connections   11434/tcp; Linux itself serves 9003/tcp

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   proxy: WSLPREROUTING sends it to the engine's proxy
  5353/udp   0.0.0.0     172.17.0.2:80    docker   proxy: WSLPREROUTING sends it to the engine's proxy
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: the engine's own rules handle it

#### active, and who holds the ports that the kernel serves
$ wslmirror status
[*] active: rules are installed for packets that arrive on loopback0

  Windows            Linux
  localhost:PORT --> loopback0 --> WSLPREROUTING --> 127.0.0.1:PORT

  interface   loopback0, index 3
  mode        mirrored
  table       ip wslmirror, installed
  path        proxy
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  DIRECTION               STATE   COUNTED
  from Windows            on      2 connections
  from Linux              on      1 connection
  closed ports            on      1 refused
  own address             off                     only with hostAddressLoopback in mirrored mode
  containers to Windows   on      3 connections   11434/tcp; Linux itself serves 9003/tcp

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   kernel: the engine's own rules handle it
  5353/udp   0.0.0.0     172.17.0.2:80    docker   kernel: the engine's own rules handle it; held by wslmirror
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: the engine's own rules handle it; not held: Windows refuses it: a Windows program (process 20480) listens on 127.0.0.1:8090

#### active, path direct
$ wslmirror status
[*] active: rules are installed for packets that arrive on loopback0

  Windows            Linux
  localhost:PORT --> loopback0 --> WSLPREROUTING --> container or proxy

  interface   loopback0, index 3
  mode        mirrored
  table       ip wslmirror, installed
  counted     1 new connection, 60 B in first packets
  path        direct
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  PORT       ON        TO              ENGINE   PATH
  8080/tcp   0.0.0.0   172.17.0.2:80   docker   direct: WSLPREROUTING sends it to the container
  5353/udp   0.0.0.0   172.17.0.2:80   docker   proxy: forwarding is off (net.ipv4.ip_forward)

#### active, on a kernel without nft_ct and nf_conntrack_netlink
$ wslmirror status
[*] active: rules are installed for packets that arrive on loopback0; degraded, because the kernel does not support: localhost from Linux, reset of earlier connections

  Windows            Linux
  localhost:PORT --> loopback0 --> WSLPREROUTING --> 127.0.0.1:PORT

  interface   loopback0, index 3
  mode        mirrored
  table       ip wslmirror, installed
  path        proxy
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  DIRECTION               STATE   COUNTED
  from Windows            on      2 connections
  from Linux              off                     this kernel lacks nft_ct or nft_masq
  closed ports            on      1 refused
  own address             off                     only with hostAddressLoopback in mirrored mode
  containers to Windows   on      3 connections   11434/tcp; Linux itself serves 9003/tcp

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   proxy: WSLPREROUTING sends it to the engine's proxy
  5353/udp   0.0.0.0     172.17.0.2:80    docker   proxy: WSLPREROUTING sends it to the engine's proxy
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: the engine's own rules handle it

  Some features are off, because this kernel lacks nft_ct or nft_masq; this kernel lacks nf_conntrack_netlink. Load the modules, and then run 'wslmirror status', which makes wslmirror check again:
      sudo modprobe -a nft_ct nft_masq
      wsl.exe --update   # if the module does not exist
      sudo modprobe -a nf_conntrack_netlink

#### waiting: the mode is NAT
$ wslmirror status
[ ] waiting: there is no loopback0; it exists only in the modes with a shared localhost (mirrored, consomme)

  interface   loopback0, missing
  mode        none that shares localhost
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  PORT       ON          TO               ENGINE
  8080/tcp   0.0.0.0     172.17.0.2:80    docker
  5353/udp   0.0.0.0     172.17.0.2:80    docker
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman

  The networking mode is nat, in which Windows forwards localhost itself: there is nothing for wslmirror to repair. For a mode with a shared localhost, add this to %UserProfile%\.wslconfig in Windows,
  and then run 'wsl --shutdown' there:
      [wsl2]
      networkingMode=mirrored

#### waiting: --interface names another link
$ wslmirror status
[ ] waiting: there is no loopbakc0, which --interface names; WSL's own is loopback0

  interface   loopbakc0, missing
  mode        none that shares localhost
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  The daemon waits for loopbakc0, but WSL's link is loopback0, which exists. Correct --interface in /etc/default/wslmirror, and then:
      sudo systemctl restart wslmirror

#### standby
$ wslmirror status
[ ] standby: another wslmirror in this VM is active; this one takes over if it stops

  interface   loopback0, index 3
  mode        mirrored
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  PORT       ON          TO               ENGINE
  8080/tcp   0.0.0.0     172.17.0.2:80    docker
  5353/udp   0.0.0.0     172.17.0.2:80    docker
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman

  Nothing to do: all distributions of the VM share one network, and wslmirror is active in another one. If it stops there, this one takes over at once.

#### stopped
$ wslmirror status
[ ] stopped: wslmirror is not running

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  Windows and Linux share localhost here (networking mode mirrored), so a port that a container publishes may not answer on localhost in Windows. To start wslmirror, now and at every boot:
      sudo systemctl enable --now wslmirror

#### stopped: the kernel is too old
$ wslmirror status
[ ] stopped: this kernel's nf_tables has no table ownership (Linux 5.12); this one is Linux 5.10.102.1-microsoft-standard-WSL2

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  wslmirror does not run on this kernel. To install a newer one:
      wsl.exe --update
      wsl.exe --shutdown

#### stopped: another distribution's daemon serves
$ wslmirror status
[ ] stopped: wslmirror is not running here; another distribution of this VM runs it

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  Nothing to do: all distributions of the VM share one network, and wslmirror is active in another one. To let this distribution take over when it stops there:
      sudo systemctl enable --now wslmirror

#### stopped: a mistake in the options
$ wslmirror status
[ ] stopped: the service has failed (exit status 78); its last log line is "run has no flag --pth (did you mean --path?)"

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  The options of the service are wrong, so systemd does not restart it. Correct WSLMIRROR_OPTS in /etc/default/wslmirror, and then:
      sudo systemctl restart wslmirror

#### error
$ wslmirror status
[x] error: read the chains of table ip nat: input/output error

  interface   loopback0, index 3
  mode        mirrored
  table       ip wslmirror, installed
  counted     0 new connections, 0 B in first packets
  path        proxy
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   proxy: WSLPREROUTING sends it to the engine's proxy
  5353/udp   0.0.0.0     172.17.0.2:80    docker   proxy: WSLPREROUTING sends it to the engine's proxy
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: the engine's own rules handle it

  See the log, and restart the service:
      wslmirror log --since 1h
      sudo systemctl restart wslmirror

