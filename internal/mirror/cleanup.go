package mirror

import "errors"

// Cleanup removes what a daemon that crashed has left behind: all that outlives
// its netlink socket. Where another daemon serves by now, that is the other's,
// and stays.
func Cleanup() error {
	s := new(system)
	err := insist(s.removeOutside, mayPass)
	s.closeReaders()
	err = errors.Join(err, s.release())
	s.forgetDatagrams()
	return err
}
