package mirror

import (
	"errors"

	"github.com/wslmirror/wslmirror/nft"
)

// Cleanup removes what a daemon that crashed has left behind: all that outlives
// its netlink socket. Where another daemon serves by now, that is the other's,
// and stays.
func Cleanup() error {
	reader, err := nft.OpenReader()
	if err != nil {
		return err
	}
	defer reader.Close()
	s, _, err := reader.Read()
	if err != nil || s.Owner != 0 {
		return err
	}
	return removeTraces()
}

// removeTraces removes the ip rule and the rules in the tables of others.
func removeTraces() error { return errors.Join(removeReturn(), removeAccepts()) }

func removeReturn() error {
	r, err := openIPRules()
	if err != nil {
		return err
	}
	defer r.close()
	there, err := r.hasReturn()
	if err != nil || !there {
		return err
	}
	return r.setReturn(false)
}

func removeAccepts() error {
	reader, err := nft.OpenReader()
	if err != nil {
		return err
	}
	defer reader.Close()
	_, ruleset, err := reader.Read()
	if err != nil {
		return err
	}
	return nft.PlaceAccepts(nil, ruleset.Accepts())
}
