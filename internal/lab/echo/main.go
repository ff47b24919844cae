// Command echo is the server in the bench's containers.
package main

import (
	"flag"
	"log"

	"github.com/wslmirror/wslmirror/internal/lab"
)

func main() {
	name := flag.String("name", "", "what to answer")
	addr := flag.String("addr", ":80", "where to answer, on TCP and UDP")
	flag.Parse()
	log.Fatal(lab.Echo(*name, *addr))
}
