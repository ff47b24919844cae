package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The README shows what the demo prints on a terminal. Only the times differ from one run
// to the next; -update leaves a recording alone that differs in nothing else.
func TestRecording(t *testing.T) {
	const file = "../../docs/demo.svg"
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	got := picture("sudo make demo", record(t, program(t, "demo")))
	if len(got) > 20_000 {
		t.Errorf("the picture has %d bytes", len(got))
	}
	if shown, err := os.ReadFile(file); err == nil && timeless(string(shown)) == timeless(got) {
		return
	}
	if !*update {
		t.Fatalf("%s does not show what the demo prints:\n%s\nrecord it again: make recording", file, got)
	}
	if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// timeless removes the times from a picture, and what depends on their width.
func timeless(picture string) string {
	return regexp.MustCompile(`\(\d+\.\d s\)| textLength="[^"]*"|animation-[^"]*`).ReplaceAllString(picture, "")
}

// A line is a line of a terminal. A line that is written over is first of all work in
// progress.
type line struct {
	working, done string
	began, ended  time.Duration
}

// record runs a program on a terminal.
func record(t *testing.T, cmd *exec.Cmd) (lines []line) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = terminal, terminal
	err = cmd.Start()
	terminal.Close()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var text strings.Builder
	var l line
	for b := make([]byte, 1); ; {
		if _, err := master.Read(b); err != nil {
			break // EIO: nobody has the terminal any more
		}
		if b[0] != '\n' {
			text.Write(b)
			continue
		}
		l.ended = time.Since(start)
		states := strings.FieldsFunc(strings.ReplaceAll(text.String(), "\x1b[K", ""), func(r rune) bool { return r == '\r' })
		if len(states) > 0 {
			l.done = states[len(states)-1]
		}
		if len(states) > 1 {
			l.working = states[0]
		}
		lines = append(lines, l)
		l = line{began: l.ended}
		text.Reset()
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// The look is that of docs/path.svg. Without animations, all of it is shown at once.
const (
	pictureHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace" font-size="14">
  <title id="title">A recording of %s</title>
  <style>
    rect { fill: #f6f8fa; stroke: #8c959f; }
    text { fill: #1f2328; white-space: pre; }
    .prompt { fill: #57606a; }
    .good { fill: #1a7f37; }
    .bad { fill: #cf222e; }
    .working { visibility: hidden; animation: show; }
    .done { animation: hide; }
    @keyframes show { from, to { visibility: visible; } }
    @keyframes hide { from, to { visibility: hidden; } }
    @media (prefers-reduced-motion: reduce) { * { animation: none !important; } }
    @media (prefers-color-scheme: dark) {
      rect { fill: #161b22; stroke: #6e7681; }
      text { fill: #e6edf3; }
      .prompt { fill: #9ea7b3; }
      .good { fill: #3fb950; }
      .bad { fill: #f85149; }
    }
  </style>
  <rect x="1" y="1" width="%d" height="%d" rx="6"/>
`
	leading, margin = 19, 16
	advance         = 8.4 // from one character to the next
)

// picture draws a recording as SVG, below the command that was recorded.
func picture(command string, lines []line) string {
	var text strings.Builder
	y, width := margin, 0
	// put writes a line at y. Each of its pieces has its place, whatever the reader's font.
	put := func(attributes, s string) {
		fmt.Fprintf(&text, "  <text y=\"%d\"%s>", y, attributes)
		column, colour := 0, ""
		for _, piece := range piece.FindAllStringSubmatch(s, -1) {
			n := utf8.RuneCountInString(piece[0])
			switch {
			case piece[1] != "":
				colour = map[string]string{"31": ` class="bad"`, "32": ` class="good"`, "2": ` class="prompt"`}[piece[1]]
				continue
			case strings.TrimSpace(piece[0]) != "":
				fmt.Fprintf(&text, `<tspan x="%.1f" textLength="%.1f"%s>`, margin+float64(column)*advance, float64(n)*advance, colour)
				_ = xml.EscapeText(&text, []byte(piece[0]))
				text.WriteString("</tspan>")
			}
			column += n
		}
		text.WriteString("</text>\n")
		width = max(width, column)
	}
	next := func() { y += leading }
	next()
	put("", "\x1b[2m$\x1b[0m "+command)
	for _, l := range lines {
		next()
		if l.working != "" {
			put(fmt.Sprintf(` class="working" style="animation-delay:%.1fs;animation-duration:%.1fs"`, l.began.Seconds(), (l.ended-l.began).Seconds()), l.working)
		}
		if l.done != "" {
			put(fmt.Sprintf(` class="done" style="animation-duration:%.1fs"`, l.ended.Seconds()), l.done)
		}
	}
	w, h := int(float64(width)*advance)+2*margin, y+margin
	return fmt.Sprintf(pictureHead, w, h, command, w-2, h-2) + text.String() + "</svg>\n"
}

// piece matches a colour, the space between two columns, and the text of a column.
var piece = regexp.MustCompile(`\x1b\[(\d+)m| {2,}|[^\x1b ]+(?: [^\x1b ]+)*| `)
