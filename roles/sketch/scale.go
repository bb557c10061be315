package sketch

import "math"

// tap is one source position with its share of a result.
type tap struct {
	at     int
	weight float32
}

// scale resizes each picture, first along its rows, then along its columns. The
// methods are those of ComfyUI; lanczos works on bytes there, so each step is
// rounded to bytes here.
func (m *images) scale(method string, width, height int) *images {
	rows := &images{n: m.n, h: m.h, w: width, pix: make([]float32, m.n*m.h*width*3)}
	taps := tapsFor(method, m.w, width)
	for line := range m.n * m.h {
		from := m.pix[line*m.w*3:]
		to := rows.pix[line*width*3:]
		for x, list := range taps {
			gather(to[x*3:x*3+3], from, list, 3)
		}
	}
	if method == "lanczos" {
		rows.roundToBytes()
	}
	out := &images{n: m.n, h: height, w: width, pix: make([]float32, m.n*height*width*3)}
	taps = tapsFor(method, m.h, height)
	for n := range m.n {
		from := rows.pix[n*m.h*width*3:]
		for y, list := range taps {
			to := out.pix[out.at(n, y, 0):]
			for x := range width {
				gather(to[x*3:x*3+3], from[x*3:], list, width*3)
			}
		}
	}
	if method == "lanczos" {
		out.roundToBytes()
	}
	return out
}

// roundToBytes changes m and is only for values that nobody else has seen.
func (m *images) roundToBytes() {
	for i, v := range m.pix {
		m.pix[i] = float32(math.Round(float64(min(max(v, 0), 1)*255))) / 255
	}
}

// gather sums the taps of one pixel. Each product is rounded by itself: a fused
// multiply-add on another processor would give another picture.
func gather(to, from []float32, taps []tap, stride int) {
	var r, g, b float32
	for _, t := range taps {
		p := from[t.at*stride:]
		r += float32(p[0] * t.weight)
		g += float32(p[1] * t.weight)
		b += float32(p[2] * t.weight)
	}
	to[0], to[1], to[2] = r, g, b
}

// tapsFor lists the sources of each of size results.
func tapsFor(method string, from, size int) [][]tap {
	out := make([][]tap, size)
	ratio := float64(from) / float64(size)
	for i := range out {
		middle := (float64(i) + 0.5) * ratio
		switch method {
		case "nearest-exact":
			out[i] = []tap{{min(int(middle), from-1), 1}}
		case "area":
			out[i] = areaTaps(i, from, size)
		case "bicubic":
			out[i] = cubicTaps(middle-0.5, from)
		case "lanczos":
			out[i] = lanczosTaps(middle, ratio, from)
		default:
			out[i] = linearTaps(max(middle-0.5, 0), from)
		}
	}
	return out
}

func linearTaps(at float64, from int) []tap {
	low := min(int(at), from-1)
	share := float32(at - float64(low))
	return []tap{{low, 1 - share}, {min(low+1, from-1), share}}
}

func areaTaps(i, from, size int) []tap {
	start, end := i*from/size, ((i+1)*from+size-1)/size
	out := make([]tap, 0, end-start)
	for at := start; at < end; at++ {
		out = append(out, tap{at, 1 / float32(end-start)})
	}
	return out
}

// cubicTaps uses the coefficient -0.75, as torch does.
func cubicTaps(at float64, from int) []tap {
	const a = -0.75
	low := math.Floor(at)
	t := at - low
	near := func(x float64) float64 { return ((a+2)*x-(a+3))*x*x + 1 }
	far := func(x float64) float64 { return ((a*x-5*a)*x+8*a)*x - 4*a }
	weights := []float64{far(t + 1), near(t), near(1 - t), far(2 - t)}
	out := make([]tap, 4)
	for k, w := range weights {
		out[k] = tap{min(max(int(low)-1+k, 0), from-1), float32(w)}
	}
	return out
}

// lanczosTaps widens its window when shrinking, which keeps fine lines.
func lanczosTaps(middle, ratio float64, from int) []tap {
	scale := max(ratio, 1)
	support := 3 * scale
	start := max(int(middle-support+0.5), 0)
	end := min(int(middle+support+0.5), from)
	weights := make([]float64, 0, end-start)
	var sum float64
	for at := start; at < end; at++ {
		w := lanczos((float64(at) - middle + 0.5) / scale)
		weights = append(weights, w)
		sum += w
	}
	out := make([]tap, len(weights))
	for k, w := range weights {
		out[k] = tap{start + k, float32(w / sum)}
	}
	return out
}

func lanczos(x float64) float64 {
	if x <= -3 || x >= 3 {
		return 0
	}
	return sinc(x) * sinc(x/3)
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return math.Sin(math.Pi*x) / (math.Pi * x)
}

// centre cuts a picture to the shape of another, as crop "center" does.
func (m *images) centre(width, height int) *images {
	have, want := float64(m.w)/float64(m.h), float64(width)/float64(height)
	x, y := 0, 0
	switch {
	case have > want:
		x = int(math.RoundToEven((float64(m.w) - float64(m.w)*(want/have)) / 2))
	case have < want:
		y = int(math.RoundToEven((float64(m.h) - float64(m.h)*(have/want)) / 2))
	}
	return m.crop(x, y, max(m.w-2*x, 1), max(m.h-2*y, 1))
}

// crop cuts out a part; what lies outside is left out.
func (m *images) crop(x, y, width, height int) *images {
	x, y = min(x, m.w-1), min(y, m.h-1)
	width, height = min(width, m.w-x), min(height, m.h-y)
	out := &images{n: m.n, h: height, w: width, pix: make([]float32, m.n*height*width*3)}
	for n := range m.n {
		for row := range height {
			copy(out.pix[out.at(n, row, 0):out.at(n, row, 0)+width*3], m.pix[m.at(n, y+row, x):])
		}
	}
	return out
}
