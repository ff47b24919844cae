package doctor

import (
	"strings"
	"testing"
)

func TestShown(t *testing.T) {
	for args, want := range map[string]string{
		"/usr/bin/dockerd": "dockerd",
		"/usr/bin/dockerd -H fd:// --containerd=/run/x.sock":                        "dockerd -H … --containerd=…",
		"dockerd --http-proxy http://zaphod:secret@proxy:3128 --debug":              "dockerd --http-proxy … --debug",
		"dockerd --https-proxy=http://zaphod:secret@proxy:3128":                     "dockerd --https-proxy=…",
		"dockerd --registry-mirror=https://m --label a=b --dns-search corp.example": "dockerd --registry-mirror=… --label … --dns-search …",
		"dockerd --userland-proxy=false --iptables=0 --firewall-backend nftables":   "dockerd --userland-proxy=false --iptables=0 --firewall-backend nftables",
		"dockerd -D -lsecret -Hsecret":                                              "dockerd -D -l… -H…",
		"wslmirror run -path direct":                                                "dockerd run -path direct",
		"dockerd --userland-proxy --label=x":                                        "dockerd --userland-proxy --label=…",
		"dockerd secret -secret@x --=secret -- secret":                              "dockerd … … … … …",
		"/home/zaphod/wslmirror run --path direct --repair=false --log-level=debug": "dockerd run --path direct --repair=false --log-level=debug",
		"dockerd --iptables=x\n====":                                                "dockerd --iptables=x?====",
	} {
		p := Program{1, "dockerd", strings.Split(args, " "), true, false}
		if got := strings.Join(p.Shown(), " "); got != want {
			t.Errorf("%q:\n got %q\nwant %q", args, got, want)
		}
	}
}
