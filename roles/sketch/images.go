package sketch

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/gif"
	"image/jpeg"
	"image/png"
	"os"

	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/tiff"
	_ "golang.org/x/image/webp"
)

// images is a batch of pictures, as ComfyUI's IMAGE: n pictures of h rows of w
// pixels of red, green and blue from 0 to 1. Values never change once made; they
// are shared between nodes and with the cache.
type images struct {
	n, h, w int
	pix     []float32
}

// mask is ComfyUI's MASK: one value per pixel.
type mask struct {
	n, h, w int
	pix     []float32
}

// newImages refuses more than limit pixels with the error that ComfyUI has for
// too little memory, before asking the system for it.
func newImages(n, h, w, limit int) (*images, error) {
	if err := checkSize(n, h, w, limit); err != nil {
		return nil, err
	}
	return &images{n: n, h: h, w: w, pix: make([]float32, n*h*w*3)}, nil
}

func checkSize(n, h, w, limit int) error {
	if n < 1 || h < 1 || w < 1 {
		return raise("RuntimeError", "a picture of %d x %d pixels cannot be made", w, h)
	}
	if w > limit/h || w*h > limit/n {
		return outOfMemory(fmt.Sprintf("%d pictures of %d x %d pixels are over this sketch's limit", n, w, h))
	}
	return nil
}

// at is the offset of a pixel's red value.
func (m *images) at(n, y, x int) int { return ((n*m.h+y)*m.w + x) * 3 }

// bits8 makes a byte of a value as ComfyUI does, times 255 and cut off, but a
// whole number that float arithmetic has missed by a hair is that number: the
// negative of 100 is 155 here and can be 154 there.
func bits8(v float32) uint8 {
	const hair = 1.0 / 1024
	scaled := float32(v*255) + hair // the product is rounded first, so that no machine fuses it with the sum
	switch {
	case !(scaled > 0): // also NaN
		return 0
	case scaled >= 255:
		return 255
	}
	return uint8(scaled)
}

// picture is one of the batch with 8 bits a value.
func (m *images) picture(n int) *image.NRGBA {
	out := image.NewNRGBA(image.Rect(0, 0, m.w, m.h))
	from := m.pix[m.at(n, 0, 0):]
	for i := range m.w * m.h {
		out.Pix[i*4] = bits8(from[i*3])
		out.Pix[i*4+1] = bits8(from[i*3+1])
		out.Pix[i*4+2] = bits8(from[i*3+2])
		out.Pix[i*4+3] = 255
	}
	return out
}

// encodePNG writes a picture with text chunks, in order.
func encodePNG(img image.Image, chunks []textChunk, level png.CompressionLevel) ([]byte, error) {
	var b bytes.Buffer
	e := png.Encoder{CompressionLevel: level}
	if err := e.Encode(&b, img); err != nil {
		return nil, fmt.Errorf("encode picture: %w", err)
	}
	return insertText(b.Bytes(), chunks)
}

// previewSize is the longest side of a preview, as in ComfyUI.
const previewSize = 512

// encodePreview makes the JPEG that pages show while a node runs.
func (m *images) encodePreview() ([]byte, error) {
	small := &images{n: 1, h: m.h, w: m.w, pix: m.pix[:m.h*m.w*3]}
	if longest := max(m.w, m.h); longest > previewSize {
		small = small.scale("bilinear", max(1, m.w*previewSize/longest), max(1, m.h*previewSize/longest))
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, small.picture(0), &jpeg.Options{Quality: 90}); err != nil {
		return nil, fmt.Errorf("encode preview: %w", err)
	}
	return b.Bytes(), nil
}

// loadImages reads a picture file. The mask is what is transparent; a picture
// without transparency has ComfyUI's 64 x 64 mask of nothing.
func loadImages(path string, limit int) (*images, *mask, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, raise("FileNotFoundError", "the picture cannot be read")
	}
	config, _, err := image.DecodeConfig(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, raise("PIL.UnidentifiedImageError", "the file is not a picture of a kind that sketch can read")
	}
	if config.Width <= 0 || config.Height <= 0 || config.Width > limit/config.Height {
		return nil, nil, outOfMemory(fmt.Sprintf("a picture of %d x %d pixels is over this sketch's limit", config.Width, config.Height))
	}
	img, kind, err := image.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, raise("OSError", "the picture is damaged: %v", err)
	}
	turned := img
	if kind == "jpeg" {
		turned = orient(img, orientation(raw))
	}
	return fromImage(turned)
}

func fromImage(img image.Image) (*images, *mask, error) {
	bounds := img.Bounds()
	out := &images{n: 1, h: bounds.Dy(), w: bounds.Dx(), pix: make([]float32, bounds.Dx()*bounds.Dy()*3)}
	holes := &mask{n: 1, h: 64, w: 64, pix: make([]float32, 64*64)}
	opaque, known := img.(interface{ Opaque() bool })
	if known && !opaque.Opaque() {
		holes = &mask{n: 1, h: out.h, w: out.w, pix: make([]float32, out.w*out.h)}
	}
	for y := range out.h {
		for x := range out.w {
			r, g, b, a := straight(img, bounds.Min.X+x, bounds.Min.Y+y)
			i := out.at(0, y, x)
			out.pix[i], out.pix[i+1], out.pix[i+2] = float32(r)/255, float32(g)/255, float32(b)/255
			if len(holes.pix) == out.w*out.h && holes.w == out.w {
				holes.pix[y*out.w+x] = 1 - float32(a)/255
			}
		}
	}
	return out, holes, nil
}

// straight is a pixel with 8 bits a value and colours not multiplied by alpha.
// image.NRGBA is read directly: converting would lose what stands under holes.
func straight(img image.Image, x, y int) (r, g, b, a uint8) {
	switch m := img.(type) {
	case *image.NRGBA:
		c := m.NRGBAAt(x, y)
		return c.R, c.G, c.B, c.A
	case *image.NRGBA64:
		c := m.NRGBA64At(x, y)
		return uint8(c.R >> 8), uint8(c.G >> 8), uint8(c.B >> 8), uint8(c.A >> 8)
	}
	r32, g32, b32, a32 := img.At(x, y).RGBA()
	if a32 == 0 {
		return 0, 0, 0, 0
	}
	if a32 != 0xffff {
		r32, g32, b32 = r32*0xffff/a32, g32*0xffff/a32, b32*0xffff/a32
	}
	return uint8(r32 >> 8), uint8(g32 >> 8), uint8(b32 >> 8), uint8(a32 >> 8)
}

// nodeError is a failure inside a node, as ComfyUI reports it.
type nodeError struct {
	kind    string // the name of the Python exception that ComfyUI would have
	message string
}

func (e *nodeError) Error() string { return e.message }

func raise(kind, format string, args ...any) error {
	return &nodeError{kind: kind, message: fmt.Sprintf(format, args...)}
}

// outOfMemory carries the name by which drivers know this failure.
func outOfMemory(why string) error {
	return &nodeError{kind: "torch.OutOfMemoryError", message: "Out of memory: " + why + "\n\nThis error means you ran out of memory on your GPU. Use smaller pictures or a smaller batch."}
}

// errInterrupted ends a job on request.
var errInterrupted = errors.New("interrupted")
