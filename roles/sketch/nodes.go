package sketch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
)

// call is one node at work: its inputs and its ways to the outside.
type call struct {
	ctx      context.Context // ends on interrupt and with the server
	server   context.Context // ends with the server only
	s        *Server
	job      *job
	args     map[string]any
	progress func(value, maximum float64)
	preview  func(*images)
}

// result is what a node gives: values for its slots and what the page shows.
type result struct {
	outputs []any
	ui      json.RawMessage
}

func (c *call) image(name string) *images {
	m, ok := c.args[name].(*images)
	if !ok { // validation has compared types, so a node gave what it did not promise
		panic(fmt.Sprintf("input %s is %T", name, c.args[name]))
	}
	return m
}

func (c *call) whole(name string) int {
	switch v := c.args[name].(type) {
	case int64:
		return int(v)
	case float64:
		return int(v)
	}
	return 0
}

func (c *call) float(name string) float64 {
	v, _ := c.args[name].(float64)
	return v
}

func (c *call) text(name string) string {
	v, _ := c.args[name].(string)
	return v
}

func one(v *images) (result, error) { return result{outputs: []any{v}}, nil }

func emptyImage(c *call) (result, error) {
	m, err := newImages(c.whole("batch_size"), c.whole("height"), c.whole("width"), c.s.cfg.MaxPixels)
	if err != nil {
		return result{}, err
	}
	color := c.whole("color")
	r, g, b := float32(color>>16&0xff)/255, float32(color>>8&0xff)/255, float32(color&0xff)/255
	for i := 0; i < len(m.pix); i += 3 {
		m.pix[i], m.pix[i+1], m.pix[i+2] = r, g, b
	}
	return one(m)
}

func loadImage(c *call) (result, error) {
	where, err := c.s.folders.annotated(c.text("image"))
	if err != nil {
		return result{}, raise("FileNotFoundError", "Invalid image file")
	}
	m, holes, err := loadImages(where, c.s.cfg.MaxPixels)
	if err != nil {
		return result{}, err
	}
	return result{outputs: []any{m, holes}}, nil
}

// fileDigest makes the cache forget a picture whose file has changed.
func fileDigest(f *folders, n *comfy.Node) string {
	name, _ := n.Text("image")
	where, err := f.annotated(name)
	if err != nil {
		return ""
	}
	file, err := os.Open(where)
	if err != nil {
		return ""
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

func imageScale(c *call) (result, error) {
	m, w, h := c.image("image"), c.whole("width"), c.whole("height")
	switch {
	case w == 0 && h == 0:
		return one(m)
	case w == 0:
		w = max(1, int(math.RoundToEven(float64(m.w*h)/float64(m.h))))
	case h == 0:
		h = max(1, int(math.RoundToEven(float64(m.h*w)/float64(m.w))))
	}
	// Between its two steps the picture is as high as before and as wide as after.
	if err := checkSize(m.n, max(h, m.h), w, c.s.cfg.MaxPixels); err != nil {
		return result{}, err
	}
	if c.text("crop") == "center" {
		m = m.centre(w, h)
	}
	return one(m.scale(c.text("upscale_method"), w, h))
}

func imageInvert(c *call) (result, error) { return one(c.image("image").invert()) }

func imageBlend(c *call) (result, error) {
	return one(c.image("image1").blend(c.image("image2"), float32(c.float("blend_factor")), c.text("blend_mode")))
}

func imageCrop(c *call) (result, error) {
	return one(c.image("image").crop(c.whole("x"), c.whole("y"), c.whole("width"), c.whole("height")))
}

func previewImage(c *call) (result, error) {
	return c.save("temp", "ComfyUI_temp_"+c.s.letters, png.BestSpeed)
}

func saveImage(c *call) (result, error) {
	return c.save("output", c.text("filename_prefix"), png.DefaultCompression)
}

// save writes the batch below a folder, numbered on from what is there.
func (c *call) save(folder, prefix string, level png.CompressionLevel) (result, error) {
	m := c.image("images")
	prefix = path.Clean(strings.ReplaceAll(fillPrefix(prefix, m, c.s.cfg.Now()), `\`, "/"))
	subfolder, base := path.Split(prefix)
	subfolder = strings.TrimSuffix(subfolder, "/")
	first, err := c.s.folders.resolve(folder, subfolder, base)
	if err != nil {
		return result{}, raise("Exception", "Saving outside the output folder is not allowed.")
	}
	dir := filepath.Dir(first)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return result{}, raise("OSError", "the output folder cannot be made")
	}
	number, err := nextNumber(dir, base)
	if err != nil {
		return result{}, raise("OSError", "the output folder cannot be read")
	}
	chunks := c.textChunks()
	files := make([]comfy.FileItem, m.n)
	for i := range m.n {
		if c.ctx.Err() != nil {
			return result{}, errInterrupted
		}
		body, err := encodePNG(m.picture(i), chunks, level)
		if err != nil {
			return result{}, raise("OSError", "%v", err)
		}
		name := fmt.Sprintf("%s_%05d_.png", strings.ReplaceAll(base, "%batch_num%", strconv.Itoa(i)), number+i)
		if err := writeFile(filepath.Join(dir, name), body); err != nil {
			return result{}, raise("OSError", "the picture cannot be written: %v", err)
		}
		files[i] = comfy.FileItem{Filename: name, Subfolder: subfolder, Type: folder}
	}
	return result{ui: value(map[string]any{"images": files})}, nil
}

// fillPrefix replaces what ComfyUI's server replaces; pages do the rest.
func fillPrefix(prefix string, m *images, now time.Time) string {
	if !strings.Contains(prefix, "%") {
		return prefix
	}
	return strings.NewReplacer("%width%", strconv.Itoa(m.w), "%height%", strconv.Itoa(m.h),
		"%year%", now.Format("2006"), "%month%", now.Format("01"), "%day%", now.Format("02"),
		"%hour%", now.Format("15"), "%minute%", now.Format("04"), "%second%", now.Format("05")).Replace(prefix)
}

// textChunks are the prompt and what the page gave along, its workflow.
func (c *call) textChunks() []textChunk {
	chunks := []textChunk{{"prompt", ascii(c.job.item.Prompt)}}
	extra, err := comfy.ParseObject(c.job.item.ExtraData)
	if err != nil {
		return chunks
	}
	info, _ := extra.Lookup("extra_pnginfo")
	fields, err := comfy.ParseObject(info)
	if err != nil {
		return chunks // a client without a page sends none
	}
	for _, f := range fields {
		if len(f.Key) > 0 && len(f.Key) < 80 && string(ascii(json.RawMessage(f.Key))) == f.Key && !strings.ContainsRune(f.Key, 0) {
			chunks = append(chunks, textChunk{f.Key, ascii(f.Value)})
		}
	}
	return chunks
}

// sketchSlow shows the picture line by line.
func sketchSlow(c *call) (result, error) {
	m, steps := c.image("image"), c.whole("steps")
	pause := time.Duration(c.float("seconds") / cmp.Or(c.s.cfg.Speed, 1) / float64(steps) * float64(time.Second))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for i := 1; i <= steps; i++ {
		select {
		case <-timer.C:
			timer.Reset(pause)
		case <-c.ctx.Done():
			return result{}, errInterrupted
		}
		c.progress(float64(i), float64(steps))
		c.preview(m.upTo(m.h * i / steps))
	}
	return one(m)
}

// upTo is the first picture of a batch, black below some lines.
func (m *images) upTo(lines int) *images {
	out := &images{n: 1, h: m.h, w: m.w, pix: make([]float32, m.h*m.w*3)}
	copy(out.pix, m.pix[:lines*m.w*3])
	return out
}

// sketchFail takes one of the roads that tests need.
func sketchFail(c *call) (result, error) {
	switch c.text("mode") {
	case "oom":
		return result{}, outOfMemory("SketchFail was asked for it")
	case "exit":
		c.s.exit()
		<-c.server.Done() // a process that ended says nothing more
		return result{}, errInterrupted
	case "hang":
		<-c.server.Done() // deaf to interruption, as code outside Python's reach is
		return result{}, errInterrupted
	}
	return result{}, raise("RuntimeError", "SketchFail was asked to fail.")
}
