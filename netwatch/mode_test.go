package netwatch

import (
	"encoding/json"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestModeOf(t *testing.T) {
	windows, own := []byte{0x00, 0x15, 0x5d, 1, 2, 3}, consommeMAC
	addr := func(list ...string) (prefixes []netip.Prefix) {
		for _, p := range list {
			prefixes = append(prefixes, netip.MustParsePrefix(p))
		}
		return prefixes
	}
	lan := Route{Table: 128, Type: unix.RTN_UNICAST, To: netip.MustParsePrefix("192.0.2.2/32"), Link: 3}
	for name, test := range map[string]struct {
		mac      []byte
		prefixes []netip.Prefix
		routes   []Route
		want     Mode
	}{
		"mirrored":                       {windows, nil, nil, Mirrored},
		"hostAddressLoopback":            {windows, nil, []Route{lan}, MirroredHAL},
		"consomme":                       {own, addr("169.254.73.250/28"), nil, Consomme},
		"consomme, the link just came":   {own, nil, nil, Consomme},
		"consomme, another MAC":          {windows, addr("169.254.73.250/28"), nil, Consomme},
		"virtioproxy":                    {own, addr("169.254.73.153/30"), nil, Consomme},
		"consomme, a route in table 128": {own, addr("169.254.73.250/28"), []Route{lan}, Consomme},

		// Addresses that others add are not WSL's.
		"mirrored, self-assigned":      {windows, addr("169.254.8.9/16"), nil, Mirrored},
		"mirrored, a user's localhost": {windows, addr("127.0.0.1/8"), nil, Mirrored},
		"mirrored, a user's address":   {windows, addr("10.1.2.3/24"), nil, Mirrored},
		"mirrored, a host of a user's": {windows, addr("169.254.73.152/32"), []Route{lan}, MirroredHAL},
		"a link without a MAC address": {nil, nil, nil, Mirrored},
	} {
		if got := modeOf(test.mac, test.prefixes, test.routes); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// The words are a public interface.
func TestModeWords(t *testing.T) {
	for mode, want := range map[Mode]struct {
		json, people    string
		mirrors, shares bool
	}{
		Mirrored:    {`"mirrored"`, "mirrored", true, true},
		MirroredHAL: {`"mirrored-hal"`, "mirrored with hostAddressLoopback", true, true},
		Consomme:    {`"consomme"`, "consomme", false, true},
		NoMode:      {`"none"`, "none that shares localhost", false, false},
	} {
		b, err := json.Marshal(mode)
		if err != nil || string(b) != want.json || mode.String() != want.people || mode.Mirrors() != want.mirrors || mode.Shares() != want.shares {
			t.Errorf("%s, %v, %q, %v, %v; want %+v", b, err, mode, mode.Mirrors(), mode.Shares(), want)
		}
	}
}
