//go:build noplot

package main

import "errors"

// plot draws nothing in the package's mirrorlab: the library for it is half of the program.
func (r *report) plot(string) error {
	return errors.New("this mirrorlab draws no plots; build another one: make build")
}
