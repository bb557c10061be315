package sketch_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
)

// pattern makes a small picture in which no two neighbours are alike.
func pattern(w, h, dx, dy, dc, base int) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			v := func(c int) uint8 { return uint8(x*dx + y*dy + c*dc + base) }
			m.SetNRGBA(x, y, color.NRGBA{v(0), v(1), v(2), 255})
		}
	}
	return m
}

func (b *bench) upload(name string, content []byte) comfy.FileItem {
	b.t.Helper()
	item, err := b.client.Upload(b.ctx(), comfy.Upload{Name: name}, bytes.NewReader(content))
	if err != nil {
		b.t.Fatal(err)
	}
	return item
}

func (b *bench) uploadPicture(name string, img image.Image) comfy.FileItem {
	b.t.Helper()
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		b.t.Fatal(err)
	}
	return b.upload(name, buf.Bytes())
}

func load(id, name string) string {
	return fmt.Sprintf(`"%s":{"class_type":"LoadImage","inputs":{"image":%q}}`, id, name)
}

// channel lists one colour of a picture, line by line.
func channel(img image.Image, c int) []int {
	var out []int
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			out = append(out, pixel(img, x, y)[c])
		}
	}
	return out
}

// near compares with a tolerance: a value at the edge of a byte falls to either side.
func near(got, want []int, tolerance int) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if d := got[i] - want[i]; d > tolerance || -d > tolerance {
			return false
		}
	}
	return true
}

// The expected numbers were computed with torch and Pillow as ComfyUI uses them.
func TestScaleAsComfyUIDoes(t *testing.T) {
	b := start(t, sketch.Config{})
	b.uploadPicture("in.png", pattern(5, 3, 53, 97, 31, 0))
	for _, c := range []struct {
		method string
		w, h   int
		want   []int
	}{
		{"nearest-exact", 8, 7, []int{0, 0, 53, 106, 106, 159, 212, 212, 0, 0, 53, 106, 106, 159, 212, 212, 97, 97, 150, 203, 203, 0, 53, 53, 97, 97, 150, 203, 203, 0, 53, 53, 97, 97, 150, 203, 203, 0, 53, 53, 194, 194, 247, 44, 44, 97, 150, 150, 194, 194, 247, 44, 44, 97, 150, 150}},
		{"nearest-exact", 3, 2, []int{0, 106, 212, 194, 44, 150}},
		{"bilinear", 8, 7, []int{0, 23, 56, 89, 122, 155, 188, 212, 13, 37, 70, 103, 124, 135, 166, 189, 55, 78, 111, 144, 132, 73, 97, 121, 97, 120, 153, 186, 139, 12, 29, 53, 138, 161, 188, 152, 105, 47, 71, 94, 180, 203, 222, 118, 71, 82, 112, 136, 194, 217, 234, 107, 60, 93, 126, 150}},
		{"bilinear", 3, 2, []int{41, 130, 154, 187, 83, 108}},
		{"area", 8, 7, []int{0, 26, 53, 79, 132, 159, 185, 212, 0, 26, 53, 79, 132, 159, 185, 212, 48, 75, 101, 128, 117, 79, 106, 132, 97, 123, 150, 176, 101, 0, 26, 53, 145, 172, 198, 161, 86, 48, 75, 101, 194, 220, 247, 145, 70, 97, 123, 150, 194, 220, 247, 145, 70, 97, 123, 150}},
		{"area", 3, 2, []int{75, 111, 106, 172, 123, 75}},
		{"bicubic", 8, 7, []int{0, 7, 46, 73, 122, 170, 213, 234, 5, 28, 68, 103, 128, 135, 170, 196, 41, 62, 105, 171, 149, 60, 76, 114, 92, 115, 155, 212, 146, 8, 13, 57, 142, 175, 200, 178, 101, 27, 44, 81, 178, 220, 230, 115, 48, 79, 114, 141, 199, 246, 248, 87, 22, 100, 144, 165}},
		{"bicubic", 3, 2, []int{31, 133, 155, 200, 83, 104}},
		{"lanczos", 8, 7, []int{0, 8, 46, 69, 111, 180, 228, 242, 6, 21, 64, 108, 127, 138, 174, 198, 36, 47, 98, 174, 151, 67, 84, 125, 93, 109, 158, 218, 148, 7, 13, 65, 148, 182, 211, 178, 95, 26, 48, 87, 176, 225, 235, 115, 42, 76, 120, 140, 191, 248, 248, 76, 10, 107, 164, 173}},
		{"lanczos", 3, 2, []int{48, 125, 128, 199, 119, 73}},
	} {
		name := fmt.Sprintf("%s-%d", c.method, c.w)
		scale := fmt.Sprintf(`"2":{"class_type":"ImageScale","inputs":{"image":["1",0],"upscale_method":"%s","width":%d,"height":%d,"crop":"disabled"}}`, c.method, c.w, c.h)
		img := b.saved(name, graph(load("1", "in.png"), scale, save("9", "2")))
		if got := channel(img, 0); !near(got, c.want, 1) {
			t.Errorf("%s: got\n%v want\n%v", name, got, c.want)
		}
	}
}

func TestBlendAsComfyUIDoes(t *testing.T) {
	b := start(t, sketch.Config{})
	b.uploadPicture("a.png", pattern(5, 3, 53, 97, 31, 0))
	b.uploadPicture("b.png", pattern(5, 3, 29, 61, 83, 40))
	for _, c := range []struct {
		mode string
		want []int
	}{
		{"normal", []int{95, 131, 167, 204, 240, 167, 203, 239, 19, 56, 239, 19, 55, 91, 127}},
		{"multiply", []int{19, 60, 109, 166, 232, 103, 160, 225, 10, 35, 218, 7, 32, 65, 106}},
		{"screen", []int{106, 155, 195, 227, 250, 192, 224, 247, 40, 104, 245, 33, 98, 154, 202}},
		{"overlay", []int{30, 95, 171, 219, 250, 167, 215, 247, 11, 45, 244, 8, 41, 92, 171}},
		{"soft_light", []int{30, 92, 151, 203, 246, 144, 196, 240, 14, 58, 234, 9, 51, 109, 174}},
		{"difference", []int{0, 0, 10, 43, 75, 0, 31, 64, 20, 53, 53, 9, 42, 74, 107}},
	} {
		blend := fmt.Sprintf(`"3":{"class_type":"ImageBlend","inputs":{"image1":["1",0],"image2":["2",0],"blend_factor":0.7,"blend_mode":"%s"}}`, c.mode)
		img := b.saved(c.mode, graph(load("1", "a.png"), load("2", "b.png"), blend, save("9", "3")))
		if got := channel(img, 1); !near(got, c.want, 1) {
			t.Errorf("%s: got\n%v want\n%v", c.mode, got, c.want)
		}
	}
	// The other picture is brought to the size of the first.
	img := b.saved("sizes", graph(empty("1", 4, 6, 0), empty("2", 9, 2, 0xffffff),
		`"3":{"class_type":"ImageBlend","inputs":{"image1":["1",0],"image2":["2",0],"blend_factor":0.5,"blend_mode":"normal"}}`, save("9", "3")))
	if img.Bounds() != image.Rect(0, 0, 4, 6) || !near([]int{pixel(img, 0, 0)[0], pixel(img, 3, 5)[2]}, []int{127, 127}, 0) {
		t.Errorf("blended sizes: %v %v", img.Bounds(), channel(img, 0))
	}
}

func TestExactPixels(t *testing.T) {
	b := start(t, sketch.Config{})
	b.uploadPicture("in.png", pattern(6, 5, 53, 97, 31, 0))
	in := pattern(6, 5, 53, 97, 31, 0)
	for i, colour := range []int{0, 0xffffff, 0x010203, 0x7f8081, 0xfedcba} {
		id := fmt.Sprintf("colour-%d", i)
		want := [3]int{colour >> 16, colour >> 8 & 255, colour & 255}
		if got := pixel(b.saved(id, graph(empty("1", 3, 2, colour), save("9", "1"))), 2, 1); got != want {
			t.Errorf("colour %06x: %v", colour, got)
		}
		inverted := [3]int{255 - want[0], 255 - want[1], 255 - want[2]}
		if got := pixel(b.saved(id+"-inverted", graph(empty("1", 3, 2, colour), `"2":{"class_type":"ImageInvert","inputs":{"image":["1",0]}}`, save("9", "2"))), 0, 0); got != inverted {
			t.Errorf("inverted %06x: %v, want %v", colour, got, inverted)
		}
	}
	crop := b.saved("crop", graph(load("1", "in.png"), `"2":{"class_type":"ImageCrop","inputs":{"image":["1",0],"width":3,"height":99,"x":2,"y":1}}`, save("9", "2")))
	if crop.Bounds() != image.Rect(0, 0, 3, 4) {
		t.Fatalf("crop is %v", crop.Bounds())
	}
	for y := range 4 {
		for x := range 3 {
			if got, want := pixel(crop, x, y), pixel(in, x+2, y+1); got != want {
				t.Errorf("crop at %d,%d: %v, want %v", x, y, got, want)
			}
		}
	}
	outside := b.saved("outside", graph(load("1", "in.png"), `"2":{"class_type":"ImageCrop","inputs":{"image":["1",0],"width":3,"height":3,"x":100,"y":100}}`, save("9", "2")))
	if outside.Bounds() != image.Rect(0, 0, 1, 1) || pixel(outside, 0, 0) != pixel(in, 5, 4) {
		t.Errorf("outside: %v %v", outside.Bounds(), pixel(outside, 0, 0))
	}
	for _, c := range []struct{ w, h, wantW, wantH int }{{12, 0, 12, 10}, {0, 10, 12, 10}, {0, 0, 6, 5}} {
		scale := fmt.Sprintf(`"2":{"class_type":"ImageScale","inputs":{"image":["1",0],"upscale_method":"area","width":%d,"height":%d,"crop":"center"}}`, c.w, c.h)
		img := b.saved(fmt.Sprintf("size-%d-%d", c.w, c.h), graph(load("1", "in.png"), scale, save("9", "2")))
		if img.Bounds().Dx() != c.wantW || img.Bounds().Dy() != c.wantH {
			t.Errorf("%d x %d gave %v", c.w, c.h, img.Bounds())
		}
	}
	centred := b.saved("centred", graph(load("1", "in.png"), `"2":{"class_type":"ImageScale","inputs":{"image":["1",0],"upscale_method":"nearest-exact","width":5,"height":5,"crop":"center"}}`, save("9", "2")))
	if got, want := pixel(centred, 0, 0), pixel(in, 0, 0); got != want { // half a column rounds to none
		t.Errorf("centred begins with %v, want %v", got, want)
	}
}

func TestLoadImageReadsWhatCamerasMake(t *testing.T) {
	b := start(t, sketch.Config{})
	transparent := image.NewNRGBA(image.Rect(0, 0, 2, 1))
	transparent.SetNRGBA(0, 0, color.NRGBA{10, 20, 30, 0})
	transparent.SetNRGBA(1, 0, color.NRGBA{40, 50, 60, 255})
	b.uploadPicture("holes.png", transparent)
	if img := b.saved("holes", graph(load("1", "holes.png"), save("9", "1"))); pixel(img, 0, 0) != [3]int{10, 20, 30} {
		t.Errorf("what stands under a hole became %v", pixel(img, 0, 0))
	}
	// A camera held upright stores lines as columns and says so.
	half := image.NewNRGBA(image.Rect(0, 0, 64, 32))
	for i := range half.Pix {
		if i%4 == 3 || i%256 < 128 {
			half.Pix[i] = 255
		}
	}
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, half, nil); err != nil {
		t.Fatal(err)
	}
	exif := "Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
	turned := append([]byte{0xff, 0xd8, 0xff, 0xe1, 0, byte(len(exif) + 2)}, exif...)
	b.upload("turned.jpg", append(turned, buf.Bytes()[2:]...))
	img := b.saved("turned", graph(load("1", "turned.jpg"), save("9", "1")))
	if img.Bounds() != image.Rect(0, 0, 32, 64) || pixel(img, 16, 5)[0] < 200 || pixel(img, 16, 60)[0] > 50 {
		t.Errorf("turned: %v, top %v, bottom %v", img.Bounds(), pixel(img, 16, 5), pixel(img, 16, 60))
	}
	b.upload("broken.png", []byte("this is no picture"))
	b.prompt("", "broken", graph(load("1", "broken.png"), save("9", "1")))
	if m, ok := b.wait("broken").Status.Message(comfy.TypeExecutionError); !ok || !bytes.Contains(m.Data, []byte("UnidentifiedImageError")) {
		t.Errorf("a broken picture gave %s", m.Data)
	}
}

func TestLoadImageSeesANewFile(t *testing.T) {
	b := start(t, sketch.Config{})
	b.uploadPicture("in.png", pattern(2, 2, 1, 1, 1, 10))
	first := pixel(b.saved("a", graph(load("1", "in.png"), save("9", "1"))), 0, 0)
	var buf bytes.Buffer
	if err := png.Encode(&buf, pattern(2, 2, 1, 1, 1, 99)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Upload(b.ctx(), comfy.Upload{Name: "in.png", Overwrite: true}, &buf); err != nil {
		t.Fatal(err)
	}
	second := pixel(b.saved("b", graph(load("1", "in.png"), save("9", "1"))), 0, 0)
	if first != [3]int{10, 11, 12} || second != [3]int{99, 100, 101} {
		t.Errorf("pixels %v, then %v", first, second)
	}
}
