package sketch

import "math"

// blend mixes other over m. Pictures of another size are brought to m's, a
// shorter batch repeats its last picture.
func (m *images) blend(other *images, factor float32, mode string) *images {
	if other.w != m.w || other.h != m.h {
		other = other.centre(m.w, m.h).scale("bicubic", m.w, m.h)
	}
	out := &images{n: m.n, h: m.h, w: m.w, pix: make([]float32, len(m.pix))}
	size := m.h * m.w * 3
	for n := range m.n {
		a := m.pix[n*size : (n+1)*size]
		b := other.pix[min(n, other.n-1)*size:]
		to := out.pix[n*size:]
		for i := range a {
			keep := float32(a[i] * (1 - factor))
			mix := float32(blendOne(a[i], b[i], mode) * factor)
			to[i] = min(max(keep+mix, 0), 1)
		}
	}
	return out
}

// blendOne rounds each product, so that every machine gets the same picture.
func blendOne(a, b float32, mode string) float32 {
	switch mode {
	case "multiply":
		return float32(a * b)
	case "screen":
		return 1 - float32((1-a)*(1-b))
	case "overlay":
		if a <= 0.5 {
			return 2 * float32(a*b)
		}
		return 1 - 2*float32((1-a)*(1-b))
	case "soft_light":
		if b <= 0.5 {
			return a - float32(float32((1-2*b)*a)*(1-a))
		}
		return a + float32((2*b-1)*(softer(a)-a))
	case "difference":
		return a - b
	}
	return b
}

func softer(x float32) float32 {
	if x <= 0.25 {
		inner := float32(16*x) - 12
		return float32((float32(inner*x) + 4) * x)
	}
	return float32(math.Sqrt(float64(x)))
}

// invert makes a negative.
func (m *images) invert() *images {
	out := &images{n: m.n, h: m.h, w: m.w, pix: make([]float32, len(m.pix))}
	for i, v := range m.pix {
		out.pix[i] = 1 - v
	}
	return out
}
