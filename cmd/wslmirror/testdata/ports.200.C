#### with Windows
$ wslmirror ports
[!] warning: 8090/tcp is published by cni, but no program in Linux listens on it, so Windows does not know of it
  -> let the engine listen on its ports (Docker: userland-proxy; Podman does so), or publish with another engine

Ports in Linux
  PORT       ON          PROGRAM               PUBLISHED               FROM WINDOWS
  3000/tcp   127.0.0.1   python3 (4229)                                localhost
  8080/tcp   0.0.0.0     docker-proxy (4117)   docker: 172.17.0.2:80   localhost, to the engine's proxy
  8080/tcp   ::          docker-proxy (4123)                           no: IPv6 is not mirrored
  8090/tcp   0.0.0.0     none                  cni: 10.4.0.2:80        no: Windows does not know of it
  9001/tcp   0.0.0.0     ?                                             localhost
  ?: owned by another user (try sudo) or another distribution

Source ports of Linux's own connections
  block        60700-64795, 4096 ports
  in Windows   60700-64795 is reserved, and contains the block
  in use       tcp 13, udp 1, including containers
  fullest      12 of 4096 to 192.0.2.1:443/tcp (under 1 %)
  headroom     4084 left for the fullest destination, 2036 of them found quickly; 4096 for a new one

Ports in Windows
  excluded     tcp   80, 1628-1727, 2222*, 5357, 50000-50059*
               udp   none
  dynamic      tcp   49152-65535
               udp   49152-65535
  listens on   tcp   135, 445, 9001
               udp   5353
  *: excluded by an administrator, can be bound; Windows programs have reserved the others

#### Windows does not answer
$ wslmirror ports
[!] warning: 8090/tcp is published by cni, but no program in Linux listens on it, so Windows does not know of it
  -> let the engine listen on its ports (Docker: userland-proxy; Podman does so), or publish with another engine

Ports in Linux
  PORT       ON          PROGRAM               PUBLISHED               FROM WINDOWS
  3000/tcp   127.0.0.1   python3 (4229)                                localhost
  8080/tcp   0.0.0.0     docker-proxy (4117)   docker: 172.17.0.2:80   localhost, to the engine's proxy
  8080/tcp   ::          docker-proxy (4123)                           no: IPv6 is not mirrored
  8090/tcp   0.0.0.0     none                  cni: 10.4.0.2:80        no: Windows does not know of it
  9001/tcp   0.0.0.0     ?                                             localhost
  ?: owned by another user (try sudo) or another distribution

Source ports of Linux's own connections
  block        60700-64795, 4096 ports
  in Windows   60700-64795 is reserved, and contains the block
  in use       tcp 13, udp 1, including containers
  fullest      12 of 4096 to 192.0.2.1:443/tcp (under 1 %)
  headroom     4084 left for the fullest destination, 2036 of them found quickly; 4096 for a new one

Ports in Windows
  no answer in time from netsh.exe and netstat.exe

#### free
$ wslmirror ports explain 3001
[ok] 3001/tcp is free

#### free, and in the block
$ wslmirror ports explain 60800
[ok] 60800/tcp is free
  note: it is in the block 60700-64795, which WSL has reserved in Windows for Linux's own connections; any of them may use it
  note: a Windows program that binds it gets 10013 (WSAEACCES), because the block contains it (WSL#40169). When WSL starts, it chooses a block without the ports that are in use in Windows (WSL#12228):
    stop WSL, exclude the port or start that program, and start WSL again

  In Windows, as administrator:
      wsl --shutdown
      netsh int ipv4 add excludedportrange protocol=tcp startport=60800 numberofports=1 store=persistent

#### one's own container has it
$ wslmirror ports explain 8080
[*] 8080/tcp is in use: docker publishes it on 0.0.0.0, for the container at 172.17.0.2:80
  docker-proxy (process 4117) listens on 0.0.0.0:8080
  note: docker-proxy (process 4123) listens on [::]:8080: this is IPv6, which WSL does not mirror; another program can use the port for IPv4

  In Linux:
      docker ps --filter publish=8080/tcp
      ps -fp 4117

  The next free port is 8081.

#### a container has it, and Windows does not know
$ wslmirror ports explain 8090
[x] 8090/tcp is taken
  cni publishes it on 0.0.0.0, for the container at 10.4.0.2:80
  note: no program in Linux listens on it, so Windows does not know of it

  The next free port is 8091.

#### one's own program has it
$ wslmirror ports explain 3000
[*] 3000/tcp is in use: python3 (process 4229) listens on 127.0.0.1:3000

  In Linux:
      ps -fp 4229

  The next free port is 3001.

#### a program of Windows has it, too
$ wslmirror ports explain 9001
[x] 9001/tcp is taken
  a program listens on 0.0.0.0:9001
  a Windows program (process 20480) listens on 127.0.0.1:9001
  note: a program without a name belongs to another user or to another distribution: all distributions share one network

  In Linux:
      sudo ss -tnap 'sport = :9001'

  In Windows, as administrator:
      tasklist /fi "PID eq 20480"

  The next free port is 9002.

#### reserved in Windows
$ wslmirror ports explain 1650
[x] 1650/tcp is blocked
  a Windows program (most often Hyper-V or WinNAT) has reserved 1628-1727, so no other program can bind it

  In Windows, as administrator:
      net stop winnat
      netsh int ipv4 add excludedportrange protocol=tcp startport=1650 numberofports=1 store=persistent
      net start winnat

  The next free port is 1728.

#### Windows does not answer
$ wslmirror ports explain 3001
[?] 3001/tcp is unknown: nothing in Linux uses it, but Windows may
  Windows could not be asked whether it keeps this port: no answer in time from netsh.exe and netstat.exe

  The next port that nothing in Linux uses is 3002.

#### Windows does not answer, one's own container has it
$ wslmirror ports explain 8080
[*] 8080/tcp is in use: docker publishes it on 0.0.0.0, for the container at 172.17.0.2:80
  docker-proxy (process 4117) listens on 0.0.0.0:8080
  note: docker-proxy (process 4123) listens on [::]:8080: this is IPv6, which WSL does not mirror; another program can use the port for IPv4
  note: Windows could not be asked: no answer in time from netsh.exe and netstat.exe

  In Linux:
      docker ps --filter publish=8080/tcp
      ps -fp 4117

  The next port that nothing in Linux uses is 8081.

#### with Windows
$ wslmirror ports free 3
8081
8082
8083

#### Windows does not answer
$ wslmirror ports free 3
[?] 8081
[?] 8082
[?] 8083
  Windows could not be asked: no answer in time from netsh.exe and netstat.exe

