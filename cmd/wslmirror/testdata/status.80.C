#### active
$ wslmirror status
[*] active: rules are installed for what arrives on loopback0

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
  own address             off                     only with hostAddressLoopback
                                                  in mirrored mode
  containers to Windows   on      3 connections   11434/tcp; Linux itself serves
                                                  9003/tcp

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   proxy: by WSLPREROUTING to
                                                   the engine's proxy
  5353/udp   0.0.0.0     172.17.0.2:80    docker   proxy: by WSLPREROUTING to
                                                   the engine's proxy
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: left to the engine's
                                                   own rules

#### active, and who holds the ports that the kernel serves
$ wslmirror status
[*] active: rules are installed for what arrives on loopback0

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
  own address             off                     only with hostAddressLoopback
                                                  in mirrored mode
  containers to Windows   on      3 connections   11434/tcp; Linux itself serves
                                                  9003/tcp

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   kernel: left to the engine's
                                                   own rules
  5353/udp   0.0.0.0     172.17.0.2:80    docker   kernel: left to the engine's
                                                   own rules; held by wslmirror
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: left to the engine's
                                                   own rules; held by nobody:
                                                   Windows refuses it: a Windows
                                                   program (process 20480)
                                                   listens on 127.0.0.1:8090

#### active, path direct
$ wslmirror status
[*] active: rules are installed for what arrives on loopback0

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
  8080/tcp   0.0.0.0   172.17.0.2:80   docker   direct: by WSLPREROUTING to the
                                                container
  5353/udp   0.0.0.0   172.17.0.2:80   docker   proxy: forwarding is off
                                                (net.ipv4.ip_forward)

#### active, on a kernel without nft_ct and nf_conntrack_netlink
$ wslmirror status
[*] active: rules are installed for what arrives on loopback0; degraded, because
  the kernel lacks what these need: localhost from Linux, flows that began
  before

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
  from Linux              off                     this kernel lacks nft_ct or
                                                  nft_masq
  closed ports            on      1 refused
  own address             off                     only with hostAddressLoopback
                                                  in mirrored mode
  containers to Windows   on      3 connections   11434/tcp; Linux itself serves
                                                  9003/tcp

  PORT       ON          TO               ENGINE   PATH
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   proxy: by WSLPREROUTING to
                                                   the engine's proxy
  5353/udp   0.0.0.0     172.17.0.2:80    docker   proxy: by WSLPREROUTING to
                                                   the engine's proxy
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: left to the engine's
                                                   own rules

  Not all is served, because this kernel lacks nft_ct or nft_masq; this kernel
  lacks nf_conntrack_netlink. Once that is loaded, the next look of wslmirror
  finds it, and 'wslmirror status' causes one:
      sudo modprobe -a nft_ct nft_masq
      wsl.exe --update   # if there is no such module
      sudo modprobe -a nf_conntrack_netlink

#### waiting: the mode is NAT
$ wslmirror status
[ ] waiting: there is no loopback0; it exists only in the modes with a shared
  localhost (mirrored, consomme)

  interface   loopback0, not there
  mode        none that shares localhost
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  PORT       ON          TO               ENGINE
  8080/tcp   0.0.0.0     172.17.0.2:80    docker
  5353/udp   0.0.0.0     172.17.0.2:80    docker
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman

  The networking mode is nat, where Windows passes localhost on by itself: there
  is nothing for wslmirror to repair. For a mode with a shared localhost, write
  in %UserProfile%\.wslconfig in Windows, and then run 'wsl --shutdown' there:
      [wsl2]
      networkingMode=mirrored

#### waiting: --interface names another link
$ wslmirror status
[ ] waiting: there is no loopbakc0, which --interface names; WSL's own is
  loopback0

  interface   loopbakc0, not there
  mode        none that shares localhost
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  The daemon waits for loopbakc0, but WSL's link is loopback0, which is there.
  See --interface in /etc/default/wslmirror, and then:
      sudo systemctl restart wslmirror

#### standby
$ wslmirror status
[ ] standby: another wslmirror in this VM serves, and this one takes over if
  that ends

  interface   loopback0, index 3
  mode        mirrored
  since       2026-11-27 10:00:16 (8 s ago)
  version     0.1.0

  PORT       ON          TO               ENGINE
  8080/tcp   0.0.0.0     172.17.0.2:80    docker
  5353/udp   0.0.0.0     172.17.0.2:80    docker
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman

  Nothing to do: all distributions of the VM share one network, and the
  wslmirror of another one looks after it. If that one ends, this one takes over
  at once.

#### stopped
$ wslmirror status
[ ] stopped: wslmirror is not running

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  Windows and Linux share localhost here (networking mode mirrored), so a port
  that a container publishes may not answer on localhost in Windows. To start
  wslmirror, now and at every boot:
      sudo systemctl enable --now wslmirror

#### stopped: the kernel is too old
$ wslmirror status
[ ] stopped: this kernel's nf_tables has no table ownership (Linux 5.12); this
  one is Linux 5.10.102.1-microsoft-standard-WSL2

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  wslmirror does not run on this kernel. For a newer one:
      wsl.exe --update
      wsl.exe --shutdown

#### stopped: another distribution's daemon serves
$ wslmirror status
[ ] stopped: no wslmirror runs in this distribution, but another one serves this
  network

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  Nothing to do: all distributions of the VM share one network, and the
  wslmirror of another one looks after it. To have one here that takes over when
  that ends:
      sudo systemctl enable --now wslmirror

#### stopped: a mistake in the options
$ wslmirror status
[ ] stopped: the service has failed (exit status 78), and its last line is "run
  has no flag --pth (did you mean --path?)"

  interface   loopback0, index 3
  mode        mirrored
  version     0.1.0

  The service does not start with its options, and systemd does not try again.
  Correct WSLMIRROR_OPTS in /etc/default/wslmirror, and then:
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
  8080/tcp   0.0.0.0     172.17.0.2:80    docker   proxy: by WSLPREROUTING to
                                                   the engine's proxy
  5353/udp   0.0.0.0     172.17.0.2:80    docker   proxy: by WSLPREROUTING to
                                                   the engine's proxy
  8090/tcp   127.0.0.1   10.88.0.5:8080   podman   kernel: left to the engine's
                                                   own rules

  Its log says more. To restart it:
      wslmirror log --since 1h
      sudo systemctl restart wslmirror

