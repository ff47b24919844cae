package doctor

import (
	"os"
	"testing"
)

func TestUFW(t *testing.T) {
	for name, test := range map[string]struct {
		policy, rules string
		want          bool
	}{
		"nothing":               {"", "", false},
		"drops":                 {`DEFAULT_INPUT_POLICY="DROP"`, "", false},
		"accepts":               {`DEFAULT_INPUT_POLICY="ACCEPT"`, "", true},
		"forwards":              {`DEFAULT_FORWARD_POLICY="ACCEPT"`, "", false},
		"accepts, but not this": {`DEFAULT_INPUT_POLICY="ACCEPT"`, "-A ufw-user-input -i loopback0 -j DROP", false},
		"the link":              {"", "-A ufw-user-input -i loopback0 -j ACCEPT", true},
		"another link":          {"", "-A ufw-user-input -i eth0 -j ACCEPT", false},
		"from localhost":        {"", "-A ufw-user-input -s 127.0.0.1 -j ACCEPT", true},
		"from 127/8":            {"", "-A ufw-user-input -s 127.0.0.0/8 -j ACCEPT", true},
		"to localhost":          {"", "-A ufw-user-input -i loopback0 -s 127.0.0.1 -d 127.0.0.1 -j ACCEPT", true},
		"from the LAN":          {"", "-A ufw-user-input -s 192.168.1.0/24 -j ACCEPT", false},
		"denied first":          {"", "-A ufw-user-input -s 127.0.0.1 -j REJECT\n-A ufw-user-input -i loopback0 -j ACCEPT", false},
		"limited":               {"", "-A ufw-user-input -s 127.0.0.1 -j ufw-user-limit\n-A ufw-user-input -i loopback0 -j ACCEPT", true},
		"one port":              {"", "-A ufw-user-input -p tcp --dport 80 -s 127.0.0.1 -j ACCEPT", false},
		"a module":              {"", "-A ufw-user-input -m state -s 127.0.0.1 -j ACCEPT", false},
		"out":                   {"", "-A ufw-user-output -s 127.0.0.1 -j ACCEPT", false},
		"broken":                {"", "-A ufw-user-input -s 127.0.0.1 -j\n-A ufw-user-input -s x -j ACCEPT", false},
	} {
		f := tree(t, map[string]string{"etc/ufw/ufw.conf": "ENABLED=yes\n", "etc/default/ufw": test.policy, "etc/ufw/user.rules": test.rules})
		if u, err := f.ufw("loopback0"); err != nil || u != (UFW{true, Seen[bool]{Value: test.want}}) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	// Only root may read the rules, and where all is let in they do not matter.
	f := tree(t, map[string]string{"etc/ufw/ufw.conf": "ENABLED=yes\n", "etc/ufw/user.rules/": ""})
	if u, err := f.ufw("loopback0"); err != nil || u.Allows.Err == nil || u.Allows.Value {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestFirewalld(t *testing.T) {
	const zone = `<zone><interface name="loopback0"/></zone>`
	for name, test := range map[string]struct {
		content map[string]string
		want    bool
	}{
		"nothing":         {nil, false},
		"public":          {map[string]string{"firewalld.conf": "DefaultZone=public\n"}, false},
		"in the zone":     {map[string]string{"firewalld.conf": "DefaultZone=public\n", "zones/trusted.xml": zone}, true},
		"by default":      {map[string]string{"firewalld.conf": "# DefaultZone=public\nDefaultZone=trusted\n", "zones/home.xml": `<interface name="eth0"/>`}, true},
		"in another zone": {map[string]string{"firewalld.conf": "DefaultZone=trusted\n", "zones/home.xml": zone}, false},
	} {
		content := map[string]string{}
		for file, text := range test.content {
			content["etc/firewalld/"+file] = text
		}
		if got, err := tree(t, content).firewalldTrusts("loopback0"); got != test.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestNetworkManager(t *testing.T) {
	const (
		lib, run, etc = "usr/lib/NetworkManager/conf.d/", "run/NetworkManager/conf.d/", "etc/NetworkManager/conf.d/"
		main          = "etc/NetworkManager/NetworkManager.conf"
		list          = "[keyfile]\nunmanaged-devices="
		ubuntu        = list + "*,except:type:wifi,except:type:gsm,except:type:cdma\n" // 10-globally-managed-devices.conf
		advice        = "[keyfile]\nunmanaged-devices+=interface-name:loopback0;interface-name:eth*\n"
	)
	for name, test := range map[string]struct {
		content map[string]string
		want    bool
	}{
		"nothing":             {nil, false},
		"all":                 {map[string]string{lib + "10.conf": list + "*"}, true},
		"all but some":        {map[string]string{lib + "10.conf": ubuntu}, true},
		"all but Ethernet":    {map[string]string{lib + "10.conf": list + "*,except:type:ethernet"}, false},
		"all but this":        {map[string]string{main: list + "*;except:interface-name:loopback0"}, false},
		"all but those":       {map[string]string{main: list + "except:interface-name:loop*;*"}, false},
		"but others":          {map[string]string{main: list + "except:interface-name:eth0"}, true},
		"by name":             {map[string]string{main: list + "interface-name:eth0; interface-name:loopback0"}, true},
		"by a glob":           {map[string]string{main: list + "interface-name:loop*"}, true},
		"by another glob":     {map[string]string{main: list + "interface-name:~loopback?"}, true},
		"not by a glob":       {map[string]string{main: list + "interface-name:back*"}, false},
		"literally":           {map[string]string{main: list + "interface-name:=loop*"}, false},
		"literally this":      {map[string]string{main: list + "interface-name:=loopback0"}, true},
		"no class":            {map[string]string{main: list + "interface-name:loopback[0-9]"}, false},
		"a bare name":         {map[string]string{main: list + "loopback0"}, true},
		"by MAC address":      {map[string]string{main: list + "mac:00:11:22:33:44:55"}, false},
		"a section":           {map[string]string{main: "[device-wsl]\nmatch-device=interface-name:loopback0\nmanaged=0\n"}, true},
		"a section, managed":  {map[string]string{main: "[device-wsl]\nmatch-device=interface-name:loopback0\nmanaged=1\n"}, false},
		"another's section":   {map[string]string{main: "[device-wsl]\nmatch-device=interface-name:eth0\nmanaged=0\n"}, false},
		"mentioned":           {map[string]string{main: "[main]\nno-auto-default=loopback0\n"}, false},
		"hidden by /etc":      {map[string]string{lib + "10.conf": ubuntu, etc + "10.conf": "[main]\n"}, false},
		"hidden by /run":      {map[string]string{lib + "10.conf": ubuntu, run + "10.conf": ""}, false}, // as netplan does
		"not hidden":          {map[string]string{lib + "10.conf": ubuntu, run + "20.conf": ""}, true},
		"last in /etc":        {map[string]string{lib + "90.conf": list + "*", etc + "10.conf": list + "interface-name:eth0"}, false},
		"main after /usr/lib": {map[string]string{lib + "90.conf": list + "*", main: list + "none"}, false},
		"main before /etc":    {map[string]string{etc + "10.conf": list + "*", main: list + "none"}, true},
		"as doctor advises":   {map[string]string{etc + "wslmirror.conf": advice}, true},
		"it adds":             {map[string]string{lib + "10.conf": list + "interface-name:loopback0", etc + "wslmirror.conf": "[keyfile]\nunmanaged-devices+=interface-name:eth*"}, true},
		"taken out":           {map[string]string{lib + "10.conf": list + "interface-name:x;interface-name:loopback0", main: "[keyfile]\nunmanaged-devices-=interface-name:loopback0"}, false},
	} {
		if got, err := tree(t, test.content).networkManagerLeaves("loopback0"); got != test.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	f := tree(t, map[string]string{lib + "10.conf": ubuntu, etc: ""})
	if err := os.Symlink(os.DevNull, f.path(etc+"10.conf")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.networkManagerLeaves("loopback0"); got || err != nil {
		t.Errorf("hidden by /dev/null: %v, %v", got, err)
	}
}
