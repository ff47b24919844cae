#### a firewall drops it
$ sudo wslmirror trace 8080
From Windows to port 8080/tcp                 [x] stops at 5
  1  loopback0                    127.0.0.1 ->
                                  127.0.0.1:8080
  2  ip wslmirror WSLPREROUTING   dnat to 127.0.0.1:8080, by
                                  "mirrored"
  3  ip nat PREROUTING            skipped: NAT is already
                                  settled
  4  table local                  for this machine, by ip
                                  rule 0: from all iif
                                  loopback0 ipproto tcp
                                  lookup local
  5  inet fw in                   drop by policy <-- here
  Why:  the policy of inet fw in drops it
  Fix:  sudo nft insert rule inet fw in iifname loopback0 ip daddr 127.0.0.1 accept

From Linux to port 8080/tcp                  [?] not certain
  1  table 127        to loopback0, by ip rule 1: from all
                      ipproto tcp lookup 127
  2  inet fw out      may drop by rule 3
  3  Windows          sends it back: a socket in Linux uses
                      the port
  4  127.0.0.1:8080   docker-proxy (161), the proxy of a
                      container
     the proxy's own connection:
  5  172.17.0.2:80    nginx (7) listens
     the answer:
  6  table 127        to loopback0
  Why:  inet fw out may drop it: this rule depends on more
        than trace knows

#### packets differ from the forecast
$ sudo wslmirror trace 8080 --live

Windows to 8080/tcp: 3 packets, 0 answers   [x] 1 difference
  PACKETS   AT               RESULT
        3   loopback0        [ok] arrives
        3   inet fw in       [x] pass by policy; forecast:
                             drop by policy
        3   127.0.0.1:8080   delivered

  7 packets arrived too fast to be inspected, and are not
  counted

#### no packet came
$ sudo wslmirror trace 8080 --live

No packet to 8080/tcp in 10 s. While trace waits, send one:
  in Windows:  curl.exe http://127.0.0.1:8080/
  in Linux:    curl http://127.0.0.1:8080/

