package doctor

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ufw reads ufw's settings. The rules of the user's are root's to read.
func (f files) ufw(iface string) (u UFW, err error) {
	conf, err := f.lines("etc/ufw/ufw.conf")
	if err != nil {
		return u, err
	}
	u.Enabled = slices.ContainsFunc(conf, func(l string) bool { return strings.EqualFold(l, "ENABLED=yes") })
	if !u.Enabled {
		return u, nil
	}
	defaults, _ := f.lines("etc/default/ufw")
	for _, l := range defaults {
		if key, value, _ := strings.Cut(l, "="); key == "DEFAULT_INPUT_POLICY" {
			u.Allows.Value = strings.Trim(value, `"' `) == "ACCEPT"
		}
	}
	rules, err := f.lines("etc/ufw/user.rules")
	if !u.Allows.Value {
		u.Allows.Err = err
	}
	for _, l := range rules {
		if target := ufwJudges(l, iface); target == "ACCEPT" || target == "DROP" || target == "REJECT" {
			u.Allows.Value = target == "ACCEPT"
			break // the first rule decides
		}
	}
	return u, nil
}

// ufwJudges is the target of a rule of the user's that is meant for all that Windows
// sends to localhost, "" if it is not.
func ufwJudges(line, iface string) (target string) {
	args, found := strings.CutPrefix(line, "-A ufw-user-input ")
	words := strings.Fields(args)
	if !found || len(words)%2 != 0 {
		return ""
	}
	for i := 0; i < len(words); i += 2 {
		switch value := words[i+1]; {
		case words[i] == "-j":
			target = value
		case words[i] == "-i" && value == iface:
		case (words[i] == "-s" || words[i] == "-d") && hasLocalhost(value):
		default:
			return "" // there are more conditions
		}
	}
	return target
}

// hasLocalhost reports whether 127.0.0.1 is that address, or in that network.
func hasLocalhost(s string) bool {
	p, err := netip.ParsePrefix(s)
	return s == localhost.String() || err == nil && p.Contains(localhost)
}

// firewalldTrusts reports whether the interface is in the zone "trusted": because
// the zone names it, or because that is the default zone and no other names it.
func (f files) firewalldTrusts(iface string) (bool, error) {
	const zones, trusted = "etc/firewalld/zones", "trusted"
	named := func(zone string) (bool, error) {
		b, err := f.read(filepath.Join(zones, zone))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return bytes.Contains(b, []byte(`"`+iface+`"`)), err
	}
	if is, err := named(trusted + ".xml"); is || err != nil {
		return is, err
	}
	conf, err := f.lines("etc/firewalld/firewalld.conf")
	byDefault := false
	for _, l := range conf {
		if key, value, _ := strings.Cut(l, "="); strings.TrimSpace(key) == "DefaultZone" {
			byDefault = strings.TrimSpace(value) == trusted
		}
	}
	if !byDefault {
		return false, err
	}
	others, _ := filepath.Glob(f.path(zones + "/*.xml"))
	for _, zone := range others {
		if is, err := named(filepath.Base(zone)); is || err != nil {
			return false, err
		}
	}
	return true, nil
}

// networkManagerLeaves reports whether NetworkManager's configuration keeps it from
// the interface: by the list of unmanaged devices, or by a section for the device.
func (f files) networkManagerLeaves(iface string) (bool, error) {
	conf, err := f.networkManager()
	if devicesHave(conf["keyfile"]["unmanaged-devices"], iface) {
		return true, nil
	}
	for section, keys := range conf {
		devices, some := keys["match-device"]
		if strings.HasPrefix(section, "device") && slices.Contains([]string{"0", "no", "false", "off"}, keys["managed"]) &&
			(!some || devicesHave(devices, iface)) {
			return true, nil
		}
	}
	return false, err
}

// networkManager is NetworkManager's configuration, by section and key. Of its
// folders that in /usr/lib is read first and that in /etc last, and a file hides
// those of the same name in the ones before (NetworkManager.conf(5)).
func (f files) networkManager() (map[string]map[string]string, error) {
	var names []string
	hidden := map[string]bool{}
	for _, root := range []string{"etc", "run", "usr/lib"} {
		var here []string
		if root == "etc" {
			here = append(here, "etc/NetworkManager/NetworkManager.conf")
		}
		for _, name := range f.confs(filepath.Join(root, "NetworkManager/conf.d")) {
			if base := filepath.Base(name); !hidden[base] {
				hidden[base] = true
				here = append(here, name)
			}
		}
		names = append(here, names...)
	}
	conf := map[string]map[string]string{}
	var errs error
	for _, name := range names {
		if to, _ := os.Readlink(f.path(name)); to == os.DevNull {
			continue // it is there to hide another
		}
		lines, err := f.lines(name)
		errs = errors.Join(errs, err)
		section := map[string]string{}
		for _, l := range lines {
			if title, found := strings.CutPrefix(l, "["); found {
				title = strings.TrimSuffix(title, "]")
				if conf[title] == nil {
					conf[title] = map[string]string{}
				}
				section = conf[title]
				continue
			}
			key, value, _ := strings.Cut(l, "=")
			key, value = strings.TrimSpace(key), strings.TrimSpace(value)
			if list, found := strings.CutSuffix(key, "+"); found {
				key, value = list, section[list]+","+value
			} else if list, found := strings.CutSuffix(key, "-"); found {
				less := devices(value)
				key, value = list, strings.Join(slices.DeleteFunc(devices(section[list]), func(d string) bool { return slices.Contains(less, d) }), ",")
			}
			section[key] = value
		}
	}
	return conf, errs
}

// devices are the items of a list of devices.
func devices(list string) (items []string) {
	for item := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ';' }) {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// devicesHave reports whether a list has the interface, as nm_match_spec_device of
// NetworkManager does: an exception beats all else, and nothing but exceptions is
// everything but them.
func devicesHave(list, iface string) bool {
	var has, positive bool
	items := devices(list)
	for _, item := range items {
		item, except := strings.CutPrefix(item, "except:")
		is := deviceIs(item, iface)
		if except && is {
			return false
		}
		has, positive = has || is, positive || !except
	}
	return has || len(items) > 0 && !positive
}

// deviceIs reports whether an item of a list is about the interface, which to
// NetworkManager is an Ethernet device. Drivers and MAC addresses are not looked at.
func deviceIs(item, iface string) bool {
	name, byName := strings.CutPrefix(item, "interface-name:")
	if !byName {
		return item == "*" || item == iface || item == "type:ethernet"
	}
	if name, literally := strings.CutPrefix(name, "="); literally {
		return name == iface
	}
	// Nothing but * and ? is special.
	pattern := strings.NewReplacer(`\`, `\\`, `[`, `\[`).Replace(strings.TrimPrefix(name, "~"))
	is, _ := path.Match(pattern, iface)
	return is
}
