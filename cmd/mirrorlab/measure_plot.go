//go:build !noplot

package main

import (
	"errors"
	"image/color"
	"math"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// bars are the variants that are drawn, in colours that people who tell few
// colours apart can tell apart (those of Okabe and Ito).
var bars = []struct {
	of    variant
	color color.Color
}{
	{byDirect, color.RGBA{0x00, 0x72, 0xb2, 0xff}},
	{byLimit, color.RGBA{0xe6, 0x9f, 0x00, 0xff}},
	{byServer, color.RGBA{0xaa, 0xaa, 0xaa, 0xff}},
}

// halves are the two parts of the plot.
var halves = []struct {
	title      string
	quantities []quantity
	names      []string // short ones, for the axis
}{
	{"more is better (docker-proxy = 1)",
		[]quantity{keepAlive, newConns, bulk, udp}, []string{"requests,\nkept", "requests,\nnew each", "bulk", "UDP"}},
	{"less is better (docker-proxy = 1)",
		[]quantity{median, p99, cpu}, []string{"latency, median", "latency, p99", "CPU per GiB"}},
}

// times are the whole numbers of an axis.
func times(low, high float64) (ticks []plot.Tick) {
	for n := math.Ceil(low); n <= high; n++ {
		ticks = append(ticks, plot.Tick{Value: n, Label: strconv.Itoa(int(n))})
	}
	return ticks
}

// plot draws everything in relation to docker-proxy, as an SVG file.
func (r *report) plot(path string) error {
	const width, height = 25 * vg.Centimeter, 18 * vg.Centimeter
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	canvas := vgsvg.New(width, height)
	whole := draw.New(canvas)
	whole.SetColor(color.White) // readers with a dark page see it too
	whole.Fill(whole.Rectangle.Path())
	const margin = vg.Centimeter / 3
	tiles := draw.Tiles{Rows: len(halves), Cols: 1, PadY: 2 * margin, PadTop: margin, PadBottom: margin, PadLeft: margin, PadRight: margin}
	for i, h := range halves {
		p := plot.New()
		p.X.Tick.Label.Font.Size = 10
		p.Title.Text = h.title
		p.Y.Min, p.Y.Tick.Marker = 0, plot.TickerFunc(times)
		// At the right, but with the names behind the colours: who has not this font
		// sees them wider.
		p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, width-5*vg.Centimeter
		p.Legend.TextStyle.Font.Size, p.Legend.Padding = 10, vg.Points(2)
		groups := len(h.quantities) * len(bothClients)
		places := groups*(len(bars)+1) - 1 // between two groups one is free
		one := plotter.NewFunction(func(float64) float64 { return 1 })
		one.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		p.Add(one)
		var ticks plot.ConstantTicks
		for b, bar := range bars {
			values := make(plotter.Values, places)
			var spread struct {
				plotter.XYs
				plotter.YErrors
			}
			for g := range groups {
				q, client := g/len(bothClients), bothClients[g%len(bothClients)]
				place := g*(len(bars)+1) + b
				if b == len(bars)/2 {
					ticks = append(ticks, plot.Tick{Value: float64(place), Label: h.names[q] + "\n" + client})
				}
				x := r.ratio(h.quantities[q], client, bar.of, byProxy)
				if x == nil {
					continue
				}
				values[place] = x.Median
				spread.XYs = append(spread.XYs, plotter.XY{X: float64(place), Y: x.Median})
				spread.YErrors = append(spread.YErrors, struct{ Low, High float64 }{x.Median - x.Min, x.Max - x.Median})
			}
			chart, err := plotter.NewBarChart(values, (width-2*vg.Centimeter)/vg.Length(places+1))
			if err != nil {
				return err
			}
			chart.Color, chart.LineStyle.Width = bar.color, 0
			p.Add(chart)
			p.Legend.Add(bar.of.Title, chart)
			if len(spread.XYs) > 0 {
				whiskers, err := plotter.NewYErrorBars(spread)
				if err != nil {
					return err
				}
				p.Add(whiskers)
			}
		}
		p.X.Min, p.X.Max = -1, float64(places)
		p.X.Tick.Marker, p.X.Tick.Length = ticks, 0
		p.Y.Max *= 1.2 // room for the legend
		p.Draw(tiles.At(whole, 0, i))
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	return errors.Join(err, f.Close())
}
