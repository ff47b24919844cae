// Command echo is the server in the bench's containers.
package main

import (
	"flag"
	"log"
	"runtime"

	"github.com/wslmirror/wslmirror/internal/lab"
)

func main() {
	name := flag.String("name", "", "what to answer")
	addr := flag.String("addr", ":80", "where to answer, on TCP and UDP")
	flag.Parse()
	// It is measured by load generators on the same machine, and a thread of them
	// keeps another processor busy.
	runtime.GOMAXPROCS(1)
	log.Fatal(lab.Echo(*name, *addr))
}
