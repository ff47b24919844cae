package ruleset

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wslmirror/wslmirror/internal/lab"
	"github.com/wslmirror/wslmirror/internal/lab/labtest"
)

// foreignRules writes a table with n rules for single addresses at a hook.
func foreignRules(hook string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet many_%s {\n\tchain c { type filter hook %[1]s priority 10;\n", hook)
	for i := range n {
		fmt.Fprintf(&b, "\t\tip saddr 100.%d.%d.1 tcp dport %d drop\n", i>>8&255, i&255, 1+i)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// BenchmarkBeside measures what a look costs while other programs have many rules or
// elements, in turn with the same look without them: total processor time and
// allocations.
func BenchmarkBeside(b *testing.B) {
	const elements, rules = 100_000, 10_000
	for _, beside := range []struct {
		name    string
		bridges []Bridge // for the path direct, which also needs the rules of input and forward
		write   func(h *lab.Host) error
	}{
		{"sets of 100,000 at prerouting, output and forward", recordedBridges, func(h *lab.Host) error { return h.Blocklist(elements) }},
		{"10,000 rules at input and forward", nil, func(h *lab.Host) error {
			return loadText(b, h, foreignRules("input", rules)+foreignRules("forward", rules))
		}},
		{"10,000 rules at prerouting", nil, func(h *lab.Host) error { return loadText(b, h, foreignRules("prerouting", rules)) }},
	} {
		b.Run(strings.ReplaceAll(beside.name, " ", "_"), func(b *testing.B) {
			var with, without looker
			for _, l := range []*looker{&with, &without} {
				bench := labtest.New(b, lab.Options{})
				file := filepath.Join(b.TempDir(), "docker.iptables")
				if err := os.WriteFile(file, []byte(docker([]int{8080, 8082})), 0o600); err != nil {
					b.Fatal(err)
				}
				load(b, bench.WSL, file)
				if l == &with {
					if err := beside.write(bench.WSL); err != nil {
						b.Fatal(err)
					}
				}
				l.reader, l.bridges = reader(b, bench.WSL), beside.bridges
			}
			const rounds = 41
			for range rounds {
				for _, l := range []*looker{&with, &without} {
					if err := l.look(); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(0, "ns/op") // the benchmark's own time means nothing
			b.ReportMetric(median(with.took), "cpu-ms")
			b.ReportMetric(median(without.took), "cpu-ms-without")
			b.ReportMetric(median(with.allocated), "MiB")
			b.ReportMetric(median(without.allocated), "MiB-without")
		})
	}
}

func loadText(b *testing.B, h *lab.Host, text string) error {
	file := filepath.Join(b.TempDir(), "rules.nft")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := h.Run("nft", "-f", file)
	return err
}

// A looker looks at a ruleset and records the cost.
type looker struct {
	reader          *Reader
	bridges         []Bridge
	took, allocated []float64 // ms, MiB
}

func (l *looker) look() error {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := cpu()
	_, err := l.reader.Read(func(rs *Ruleset) error {
		a := rs.Analyse(Iface{"loopback0", 2}, l.bridges)
		if len(a.Published) != 2 || (a.Published[0].Obstacle == "") != (l.bridges != nil) {
			return fmt.Errorf("%+v", a.Published)
		}
		return nil
	})
	l.took = append(l.took, float64(cpu()-began)/float64(time.Millisecond))
	runtime.ReadMemStats(&after)
	l.allocated = append(l.allocated, float64(after.TotalAlloc-before.TotalAlloc)/(1<<20))
	return err
}

func median(list []float64) float64 {
	return slices.Sorted(slices.Values(list))[len(list)/2]
}
