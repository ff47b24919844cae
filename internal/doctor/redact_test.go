package doctor

import (
	"testing"

	"github.com/wslmirror/wslmirror/internal/text"
)

// redactor is one for a machine with known names.
func redactor(t *testing.T) *text.Redactor {
	for _, v := range []string{"USER", "LOGNAME", "SUDO_USER", "HOME", "NAME", "COMPUTERNAME"} {
		t.Setenv(v, "")
	}
	f := tree(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:x:102:65534::/run/sshd:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n" +
			"anna:x:1000:1000:Anna Beispiel,Room 7,,:/home/anna:/bin/bash\njo:x:1001:1001::/srv/people/jojo:/bin/sh\n" +
			"docker:x:1002:1002::/home/docker:/bin/sh\nünal:x:1003:1003::/home/ünal:/bin/sh\n",
		"etc/hostname":              "LAPTOP-7Q2.corp.example.com\n",
		"mnt/c/Users/Anna B/":       "",
		"mnt/c/Users/Public/":       "",
		"mnt/c/Users/Default User/": "",
	})
	return NewRedactor(t.Context(), f.root)
}

func TestRedact(t *testing.T) {
	const keep = "=" // the text stays as it is
	for text, want := range map[string]string{
		// Names.
		"anna logged in":                   "<user-1> logged in",
		"Anna ANNA annabel banana":         "<user-1> <user-1> annabel banana",
		"anna@LAPTOP-7Q2:~$":               "<user-1>@<host-1>:~$",
		"laptop-7q2.corp.example.com":      "<host-1>",
		"vpn.corp.example.com":             "vpn.<host-1>",
		"Anna Beispiel":                    "<user-1>",
		"by jo (jojo) and joe":             "by <user-1> (<user-2>) and joe",
		"anna-vm anna_x anna.service":      "<user-1>-vm <user-1>_x <user-1>.service",
		"ÜNAL ünal":                        "<user-1> <user-1>",
		"root docker nobody sshd":          keep,
		"İ anna":                           "İ <user-1>", // whose lower case is longer
		"anna\nanna":                       "<user-1>\n<user-1>",
		"uid=anna,gid=anna;'anna'\"anna\"": "uid=<user-1>,gid=<user-1>;'<user-1>'\"<user-1>\"",
		// Paths tell names that are not known.
		"/home/carla/x /home/carla":                  "/home/<user-1>/x /home/<user-1>",
		"/home/anna/x":                               "/home/<user-1>/x",
		"/home/q /home//x /home/":                    "/home/<user-1> /home//x /home/",
		"/mnt/c/Users/Karl Heinz/bin":                "/mnt/c/Users/<user-1>/bin",
		`C:\Users\Karl Heinz\bin C:\users\x`:         `C:\Users\<user-1>\bin C:\users\<user-2>`,
		`"C:\\Users\\Karl Heinz\\bin"`:               `"C:\\Users\\<user-1>\\bin"`,
		"/mnt/c/Users/Anna B/x and Anna B":           "/mnt/c/Users/<user-1>/x and <user-1>",
		"/mnt/c/Users/Public/x C:\\Users\\Default\\": keep,
		"/mnt/c/Users/carla and so on":               "/mnt/c/Users/<user-1> and so on",
		// Addresses of IPv4.
		"8.8.8.8 8.8.4.4 8.8.8.8":           "<address-1> <address-2> <address-1>",
		"8.8.8.8:53, 8.8.8.8/24 (8.8.8.8).": "<address-1>:53, <address-1>/24 (<address-1>).",
		"ip=8.8.8.8 v8.8.8.8 addr8.8.8.8b":  "ip=<address-1> v<address-1> addr<address-1>b",
		"008.008.008.008":                   "<address-1>",
		"8.8.8.8.53 > 10.0.0.1.5000":        "<address-1> > 10.0.0.1.5000",
		"ec2-54-1-2-3.compute":              "ec<address-1>.compute",
		"host-10-8-8-8-8 10.0.0.1.80":       "host-<address-1> 10.0.0.1.80",
		"8.8.8.8-8.8.8.9":                   "<address-1>-<address-2>",
		"127.0.0.1 10.1.2.3 172.17.0.2 192.168.1.5 169.254.73.249 0.0.0.0": keep,
		"100.64.1.1 192.0.2.1 198.51.100.7 203.0.113.9 198.18.0.1":         keep,
		"224.0.0.1 255.255.255.255 255.255.255.0":                          keep,
		"172.32.0.1 11.0.0.1 126.0.0.1":                                    "<address-1> <address-2> <address-3>",
		"1.2.3 256.1.1.1 1.2.3.999 2026-11-23 03:36:10 5.15.90":            keep,
		"proto 87, priority -101, 0x1000/0x1000, 60700-60999":              keep,
		// Addresses of IPv6.
		"2a00:1450:4001:81b::200e":                                "<address-1>",
		"[2a00:1450:4001:81b::200e]:443":                          "[<address-1>]:443",
		"2A00:1450:4001:081B:0:0:0:200E 2a00:1450:4001:81b::200e": "<address-1> <address-1>",
		"2a00:1450::/32 dev eth0":                                 "<address-1>/32 dev eth0",
		"addr:2a00:1450:4001:81b:0:0:0:200e":                      "addr:<address-1>",
		"2a00:1450::1, 2a00:1450::1.":                             "<address-1>, <address-1>.",
		"::ffff:8.8.8.8 ::ffff:10.0.0.1":                          "<address-1> ::ffff:10.0.0.1",
		"64:ff9b::8.8.8.8 64:ff9b::808:808":                       "<address-1> <address-1>",
		"::1 fe80::1%eth0 fd00::1 2001:db8::7 ff02::1 ::":         keep,
		"00:15:5d:00:00:01 00:11:22:33:44:55":                     keep,
		"3c:7c:3f:12:34:56 02:42:ac:11:00:02 3C:7C:3F:12:34:56":   "<mac-1> 02:42:ac:11:00:02 <mac-1>", // of hardware, and made up
		"std::string a::b dead:beef":                              keep,
	} {
		if want == keep {
			want = text
		}
		if got := redactor(t).Redact(text); got != want {
			t.Errorf("%q:\n got %q\nwant %q", text, got, want)
		}
	}
}

func TestKeep(t *testing.T) {
	r := redactor(t)
	r.Keep("WSL 2.9.5.0")
	r.Keep("6.18.33.2-microsoft-standard-WSL2")
	if got := r.Redact("2.9.5.0, 6.18.33.2-microsoft, 2.9.5.1"); got != "2.9.5.0, 6.18.33.2-microsoft, <address-1>" {
		t.Error(got)
	}
}
