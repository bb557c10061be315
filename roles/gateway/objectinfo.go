package gateway

import (
	"crypto/sha256"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/roles/comfy"
)

// listCache keeps the compressed object_info of the file lists in use: megabytes
// that differ only in which pictures a LoadImage offers.
type listCache struct {
	mu    sync.Mutex
	order [][32]byte
	body  map[[32]byte][]byte // gzip
}

// maxLists bounds it.
const maxLists = 8

// mended gives every class the module that newer pages read without looking: a
// null there and the page never opens. One fork's own classes have it.
func mended(info *comfy.ObjectInfo) *comfy.ObjectInfo {
	var changed []*comfy.Class
	for _, name := range info.Names() {
		class, _ := info.Class(name)
		if class.PythonModule != "" {
			continue
		}
		fields, err := comfy.ParseObject(class.Raw)
		if err != nil {
			continue // not an object: a page passes over it
		}
		fields.Set("python_module", []byte(`"nodes"`))
		if raw, err := fields.MarshalJSON(); err == nil {
			changed = append(changed, comfy.ParseClass(name, raw))
		}
	}
	if len(changed) == 0 {
		return info
	}
	return info.With(changed...)
}

// objectInfo is GET /object_info: every class, with this user's own files in
// place of the worker's.
func (g *Gateway) objectInfo(c *call) {
	info, version := g.classes()
	mine := g.offered(c.user)
	key := mine.key(version)
	g.caps.lists.mu.Lock()
	body, ok := g.caps.lists.body[key]
	g.caps.lists.mu.Unlock()
	if !ok {
		own, err := mine.apply(info, info.Names())
		if err != nil {
			fail(c.RequestCtx, err)
			return
		}
		body = fasthttp.AppendGzipBytesLevel(nil, own.Marshal(), fasthttp.CompressBestSpeed)
		g.caps.lists.keep(key, body)
	}
	writeGzip(c, body)
}

func (c *capabilities) current() (*comfy.ObjectInfo, int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.info, c.version
}

func (l *listCache) keep(key [32]byte, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil {
		l.body = map[[32]byte][]byte{}
	}
	if _, ok := l.body[key]; ok {
		return
	}
	l.body[key] = body
	l.order = append(l.order, key)
	if len(l.order) > maxLists {
		delete(l.body, l.order[0])
		l.order = l.order[1:]
	}
}

// objectInfoOf is GET /object_info/{class}; an unknown class is {}.
func (g *Gateway) objectInfoOf(c *call) {
	info, _ := g.classes()
	if _, ok := info.Class(c.params["class"]); !ok {
		writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("{}"))
		return
	}
	own, err := g.offered(c.user).apply(info, []string{c.params["class"]})
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	class, _ := own.Class(c.params["class"])
	writeJSON(c.RequestCtx, fasthttp.StatusOK, comfy.NewObjectInfo(class).Marshal())
}

// classes are what the workers said they have; before any has, what the
// workshop's own workflows show. Never nothing: a page would open with every
// node red, and people would save that.
func (g *Gateway) classes() (info *comfy.ObjectInfo, version int) {
	if info, version = g.caps.current(); info != nil {
		return info, version
	}
	return g.templates.drawn, 0
}

// offer is what a user's file inputs may choose from, by area: the files in its
// root. Two more lists stand under names of their own.
type offer map[files.Area][]string

const (
	offer3D      files.Area = "input/3d" // models in any folder below 3d, as 3d/a/b.glb
	offerFolders files.Area = "input/"   // the folders of input
)

// offered lists what of a user's files ComfyUI would list.
func (g *Gateway) offered(u cluster.User) offer {
	out := offer{}
	g.cfg.Tables.Files(func(t *files.Table) {
		for _, area := range []files.Area{files.Input, files.Output} {
			for _, f := range t.Files(u, area) {
				sub := f.Place.Subfolder
				if sub == "" {
					out[area] = append(out[area], f.Place.Name)
				}
				if area == files.Output || sub == "" {
					continue
				}
				if sub == "3d" || strings.HasPrefix(sub, "3d/") {
					out[offer3D] = append(out[offer3D], sub+"/"+f.Place.Name)
				}
				out[offerFolders] = append(out[offerFolders], sub)
			}
		}
	})
	for area := range out {
		slices.Sort(out[area])
		out[area] = slices.Compact(out[area])
	}
	return out
}

func (o offer) key(version int) [32]byte {
	h := sha256.New()
	h.Write([]byte{byte(version), byte(version >> 8), byte(version >> 16)})
	for _, area := range []files.Area{files.Input, files.Output, offer3D, offerFolders} {
		h.Write([]byte(area))
		for _, name := range o[area] {
			h.Write([]byte(name))
			h.Write([]byte{0})
		}
	}
	return [32]byte(h.Sum(nil))
}

// apply replaces the worker's own files, which are other people's, in the named
// classes.
func (o offer) apply(info *comfy.ObjectInfo, names []string) (*comfy.ObjectInfo, error) {
	var changed []*comfy.Class
	for _, name := range names {
		class, ok := info.Class(name)
		if !ok {
			continue
		}
		now := class
		for _, in := range class.Inputs {
			if in.Upload == "" && !listsFolder(name, in.Name) {
				continue
			}
			area := areaOf(name, in)
			next, err := now.WithOptions(in.Name, pick(o[area], in.Upload))
			if err != nil {
				continue // an input whose list comes from elsewhere
			}
			now = next
		}
		if now != class {
			changed = append(changed, now)
		}
	}
	if len(changed) == 0 {
		return info, nil
	}
	return info.With(changed...), nil
}

// areaOf is the list that an input of files chooses from.
func areaOf(class string, in comfy.InputSpec) files.Area {
	switch area := files.Area(in.Folder); {
	case strings.HasPrefix(class, "Load3D"):
		return offer3D
	case comfy.ReadsFolder(class, in.Name):
		return offerFolders
	case class == "LoadImageOutput":
		return files.Output
	case area.Valid():
		return area
	}
	return files.Input
}

// listsFolder names the core inputs that list a folder without saying so.
func listsFolder(class, input string) bool {
	switch class + "." + input {
	case "LoadLatent.latent", "LoadImageOutput.image", "Load3D.model_file", "Load3DAnimation.model_file", "OpenAIInputFiles.file", "GeminiInputFiles.file":
		return true
	}
	return comfy.ReadsFolder(class, input)
}

// pick keeps the names that fit an upload flag.
func pick(names []string, flag string) []string {
	out := []string{}
	for _, n := range names {
		ctype, _ := mediaType(n)
		kind, _, _ := strings.Cut(ctype, "/")
		switch flag {
		case "image_upload", "animated_image_upload":
			if kind != "image" {
				continue
			}
		case "video_upload":
			if kind != "video" && path.Ext(n) != ".gif" {
				continue
			}
		case "audio_upload":
			if kind != "audio" && kind != "video" {
				continue
			}
		}
		out = append(out, n)
	}
	return out
}
