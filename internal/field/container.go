package field

import (
	"log"
	"os"
	"strconv"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
)

// Enter must be the first thing that a program does that calls Look.Run: in a container,
// it is the server, and does not return.
func Enter() {
	if len(os.Args) != 4 || os.Args[1] != containerVerb {
		return
	}
	seconds, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() { os.Exit(0) })
	log.Fatal(lab.Echo(os.Args[2], ":80"))
}
