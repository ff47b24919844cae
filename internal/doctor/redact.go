package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/wslmirror/wslmirror/internal/text"
)

// NewRedactor makes a redactor for the names on this machine, as far as they are
// known when ctx is done. root is the folder that contains /etc, /proc and /mnt.
func NewRedactor(ctx context.Context, root string) *text.Redactor {
	r, f := text.NewRedactor(), files{root}
	for _, v := range []string{"USER", "LOGNAME", "SUDO_USER"} {
		r.Add("user", os.Getenv(v))
	}
	r.Add("user", filepath.Base(os.Getenv("HOME")))
	people, _ := f.lines("etc/passwd")
	for _, l := range people {
		fields := strings.Split(l, ":")
		// The user IDs of people begin with 1000 (login.defs(5)).
		if len(fields) >= 7 && len(fields[2]) >= 4 && fields[2] != "65534" {
			full, _, _ := strings.Cut(fields[4], ",")
			r.Add("user", fields[0], full, filepath.Base(fields[5]))
		}
	}
	var folders Seen[[]os.DirEntry]
	s := &survey{ctx: ctx} // the drive may hang
	look(s, &folders, func() ([]os.DirEntry, error) { return os.ReadDir(f.path("mnt/c/Users")) })
	s.Wait()
	for _, d := range folders.Value {
		if d.IsDir() {
			r.Add("user", d.Name())
		}
	}
	hosts, _ := f.lines("etc/hostname")
	now, _ := f.lines("proc/sys/kernel/hostname")
	for _, h := range append(append(hosts, now...), os.Getenv("NAME"), os.Getenv("COMPUTERNAME")) {
		short, domain, _ := strings.Cut(h, ".")
		r.Add("host", h, short)
		if strings.Contains(domain, ".") {
			r.Add("host", domain)
		}
	}
	return r
}
