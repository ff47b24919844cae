#### notices, a warning and an error
$ wslmirror log --since 1h
2026-11-27 10:00:24  8080/tcp is published by docker on 0.0.0.0 for 172.17.0.2:80, path proxy
2026-11-27 10:00:24  [!] warning: restored parts of WSL's setup that another program had removed: ip rules: 9
2026-11-27 10:00:25  [x] error: could not read or change the kernel's state, retrying: read the chains of table ip nat: input/output error

