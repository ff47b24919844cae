package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// zeros is the body of long answers, in pieces.
var zeros [256 << 10]byte

// answerHTTP answers one HTTP request, of which line is the first line. The
// answer is name, or N zeros to "GET /N". It reports whether the connection
// goes on. What it does not know of HTTP, clients like wrk and curl do not say:
// it is here, rather than net/http, so that a load generator measures the way
// to the server rather than the server.
func answerHTTP(c io.Writer, r *bufio.Reader, line []byte, name string) (goOn bool) {
	size := 0
	target, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("GET /")), []byte(" "))
	if n, err := strconv.ParseUint(string(target), 10, 31); err == nil {
		size = int(n)
	}
	goOn = true
	for {
		header, err := r.ReadSlice('\n')
		if err != nil {
			return false // the client is gone, or a header does not fit in 4 KiB
		}
		header = bytes.TrimRight(header, "\r\n")
		if len(header) == 0 {
			break
		}
		if bytes.EqualFold(header, []byte("Connection: close")) {
			goOn = false
		}
	}
	connection := ""
	if !goOn {
		connection = "Connection: close\r\n"
	}
	const head = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n"
	if size == 0 {
		_, err := fmt.Fprintf(c, head+"%s\n", len(name)+1, connection, name)
		return goOn && err == nil
	}
	_, err := fmt.Fprintf(c, head, size, connection)
	for err == nil && size > 0 {
		n := min(size, len(zeros))
		_, err = c.Write(zeros[:n])
		size -= n
	}
	return goOn && err == nil
}
