package sketch

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// class is one kind of node: what it says of itself and what it does.
type class struct {
	name, display, category, description string
	module                               string // "nodes" for what ComfyUI has, too
	output                               bool
	inputs                               []input
	outputs                              []string
	run                                  func(c *call) (result, error)
	volatile                             func(c *folders, n *comfy.Node) string // more for the cache key than the inputs say
}

// input is one input of a class. Config is a JSON object or "".
type input struct {
	name    string
	section comfy.Section
	typ     string
	options []string // of a combo
	newer   bool     // the combo is written in the newer syntax
	config  string
}

// library is all classes in the order in which they are listed.
type library struct {
	classes []class
	byName  map[string]*class
	info    *comfy.ObjectInfo
}

const maxSide = 16384

func newLibrary() *library {
	l := &library{classes: append(coreClasses(), sketchClasses()...), byName: map[string]*class{}}
	described := make([]*comfy.Class, len(l.classes))
	for i := range l.classes {
		c := &l.classes[i]
		l.byName[c.name] = c
		described[i] = comfy.ParseClass(c.name, c.describe())
	}
	l.info = comfy.NewObjectInfo(described...)
	return l
}

// objectInfo is the library with the files that LoadImage can choose from now.
func (s *Server) objectInfo() *comfy.ObjectInfo {
	files, err := s.folders.list("input")
	if err != nil {
		s.log.Warn("listing pictures", "err", err)
	}
	files = slices.DeleteFunc(files, func(name string) bool { return !pictureName(name) })
	slices.Sort(files)
	info, err := s.classes.info.WithOptions("LoadImage", "image", files)
	if err != nil { // LoadImage is in the library, so this cannot be
		s.log.Error("listing pictures", "err", err)
		return s.classes.info
	}
	return info
}

func pictureName(name string) bool {
	return slices.Contains([]string{".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}, strings.ToLower(filepath.Ext(name)))
}

func image1(name string) input { return input{name: name, section: comfy.Required, typ: "IMAGE"} }

func whole(name string, standard, low, high int) input {
	return input{
		name: name, section: comfy.Required, typ: "INT",
		config: fmt.Sprintf(`{"default":%d,"min":%d,"max":%d,"step":1}`, standard, low, high),
	}
}

// combo begins with its standard choice.
func combo(name string, options ...string) input {
	return input{name: name, section: comfy.Required, typ: comfy.TypeCombo, options: options}
}

func hiddenPrompt() []input {
	return []input{
		{name: "prompt", section: comfy.Hidden, typ: "PROMPT"},
		{name: "extra_pnginfo", section: comfy.Hidden, typ: "EXTRA_PNGINFO"},
	}
}

// coreClasses have the names, inputs and outputs that ComfyUI's own have, so that
// graphs run on both.
func coreClasses() []class {
	color := whole("color", 0, 0, 0xffffff)
	color.config = `{"default":0,"min":0,"max":16777215,"step":1,"display":"color"}`
	file := combo("image")
	file.options, file.config = []string{}, `{"image_upload":true}`
	mode := combo("blend_mode", "normal", "multiply", "screen", "overlay", "soft_light", "difference")
	mode.newer = true
	return []class{
		{
			name: "EmptyImage", display: "EmptyImage", category: "image", outputs: []string{"IMAGE"}, run: emptyImage,
			inputs: []input{whole("width", 512, 1, maxSide), whole("height", 512, 1, maxSide), whole("batch_size", 1, 1, 4096), color},
		},
		{
			name: "LoadImage", display: "Load Image", category: "image", outputs: []string{"IMAGE", "MASK"}, run: loadImage, volatile: fileDigest,
			inputs: []input{file},
		},
		{
			name: "ImageScale", display: "Upscale Image", category: "image/upscaling", outputs: []string{"IMAGE"}, run: imageScale,
			inputs: []input{
				image1("image"), combo("upscale_method", "nearest-exact", "bilinear", "area", "bicubic", "lanczos"),
				whole("width", 512, 0, maxSide), whole("height", 512, 0, maxSide), combo("crop", "disabled", "center"),
			},
		},
		{
			name: "ImageInvert", display: "Invert Image", category: "image", outputs: []string{"IMAGE"}, run: imageInvert,
			inputs: []input{image1("image")},
		},
		{
			name: "ImageBlend", display: "Image Blend", category: "image/postprocessing", outputs: []string{"IMAGE"}, run: imageBlend,
			inputs: []input{
				image1("image1"), image1("image2"),
				{name: "blend_factor", section: comfy.Required, typ: "FLOAT", config: `{"default":0.5,"min":0.0,"max":1.0,"step":0.01}`},
				mode,
			},
		},
		{
			name: "ImageCrop", display: "Image Crop", category: "image/transform", outputs: []string{"IMAGE"}, run: imageCrop,
			inputs: []input{image1("image"), whole("width", 512, 1, maxSide), whole("height", 512, 1, maxSide), whole("x", 0, 0, maxSide), whole("y", 0, 0, maxSide)},
		},
		{
			name: "PreviewImage", display: "Preview Image", category: "image", output: true, outputs: []string{}, run: previewImage,
			description: "Shows the pictures and keeps them only until the server ends.", inputs: append([]input{image1("images")}, hiddenPrompt()...),
		},
		{
			name: "SaveImage", display: "Save Image", category: "image", output: true, outputs: []string{}, run: saveImage,
			description: "Saves the pictures to the output folder.",
			inputs: append([]input{
				image1("images"),
				{name: "filename_prefix", section: comfy.Required, typ: "STRING", config: `{"default":"ComfyUI"}`},
			}, hiddenPrompt()...),
		},
	}
}

// sketchClasses are this server's own.
func sketchClasses() []class {
	return []class{
		{
			name: "SketchSlow", display: "Sketch: take time", category: "sketch", module: "custom_nodes.sketch", outputs: []string{"IMAGE"}, run: sketchSlow,
			description: "Passes a picture on after some seconds, with progress and a preview at each step.",
			inputs: []input{
				image1("image"),
				{name: "seconds", section: comfy.Required, typ: "FLOAT", config: `{"default":5.0,"min":0.0,"max":3600.0,"step":0.1}`},
				whole("steps", 10, 1, 1000),
				{name: "seed", section: comfy.Optional, typ: "INT", config: `{"default":0,"min":0,"max":18446744073709551615,"control_after_generate":true}`},
			},
		},
		{
			name: "SketchFail", display: "Sketch: fail", category: "sketch", module: "custom_nodes.sketch", outputs: []string{"IMAGE"}, run: sketchFail,
			description: "Fails in a way of choice: an exception, out of memory, a node that ignores interruption, a process that ends.",
			inputs:      []input{image1("image"), combo("mode", "raise", "oom", "hang", "exit")},
		},
	}
}

// describe writes the class as object_info has it.
func (c *class) describe() json.RawMessage {
	sections := map[comfy.Section]*comfy.Object{comfy.Required: {}, comfy.Optional: {}, comfy.Hidden: {}}
	order := map[comfy.Section][]string{}
	for _, in := range c.inputs {
		sections[in.section].Set(in.name, in.describe())
		order[in.section] = append(order[in.section], in.name)
	}
	var inputs, inputOrder comfy.Object
	for _, s := range []comfy.Section{comfy.Required, comfy.Optional, comfy.Hidden} {
		if len(order[s]) > 0 {
			inputs.Set(string(s), value(sections[s]))
			inputOrder.Set(string(s), value(order[s]))
		}
	}
	module := c.module
	if module == "" {
		module = "nodes"
	}
	return value(comfy.Object{
		{Key: "input", Value: value(inputs)},
		{Key: "input_order", Value: value(inputOrder)},
		{Key: "output", Value: value(c.outputs)},
		{Key: "output_is_list", Value: value(make([]bool, len(c.outputs)))},
		{Key: "output_name", Value: value(c.outputs)},
		{Key: "name", Value: value(c.name)},
		{Key: "display_name", Value: value(c.display)},
		{Key: "description", Value: value(c.description)},
		{Key: "python_module", Value: value(module)},
		{Key: "category", Value: value(c.category)},
		{Key: "output_node", Value: value(c.output)},
	})
}

func (in input) describe() json.RawMessage {
	if in.section == comfy.Hidden {
		return value(in.typ)
	}
	parts := []json.RawMessage{value(in.typ)}
	switch {
	case in.options != nil && in.newer:
		return value(append(parts, value(map[string]any{"multiselect": false, "options": in.options})))
	case in.options != nil:
		parts = []json.RawMessage{value(in.options)}
	}
	if in.config != "" {
		parts = append(parts, json.RawMessage(in.config))
	}
	return value(parts)
}

// value writes a value of our own making, which cannot fail.
func value(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}
