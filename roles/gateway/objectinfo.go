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
	info, version := g.caps.current()
	if info == nil {
		writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("{}"))
		return
	}
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
	info := g.caps.objectInfo()
	if info != nil {
		if _, ok := info.Class(c.params["class"]); ok {
			own, err := g.offered(c.user).apply(info, []string{c.params["class"]})
			if err != nil {
				fail(c.RequestCtx, err)
				return
			}
			class, _ := own.Class(c.params["class"])
			writeJSON(c.RequestCtx, fasthttp.StatusOK, comfy.NewObjectInfo(class).Marshal())
			return
		}
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("{}"))
}

// offer is what a user's file inputs may choose from, by area.
type offer map[files.Area][]string

// offered lists the files in the roots of a user's folders, as ComfyUI does.
func (g *Gateway) offered(u cluster.User) offer {
	out := offer{}
	g.cfg.Tables.Files(func(t *files.Table) {
		for _, area := range []files.Area{files.Input, files.Output} {
			for _, f := range t.Files(u, area) {
				if f.Place.Subfolder == "" {
					out[area] = append(out[area], f.Place.Name)
				}
			}
			slices.Sort(out[area])
		}
	})
	return out
}

func (o offer) key(version int) [32]byte {
	h := sha256.New()
	h.Write([]byte{byte(version), byte(version >> 8), byte(version >> 16)})
	for _, area := range []files.Area{files.Input, files.Output} {
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
		class, _ := info.Class(name)
		now := class
		for _, in := range class.Inputs {
			if in.Upload == "" && !listsFolder(name, in.Name) {
				continue
			}
			area := files.Area(in.Folder)
			if !area.Valid() {
				area = files.Input
			}
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

// listsFolder names the core inputs that list a folder without saying so.
func listsFolder(class, input string) bool {
	switch class + "." + input {
	case "LoadLatent.latent", "LoadImageOutput.image", "LoadImageSetFromFolderNode.folder", "LoadImageTextSetFromFolderNode.folder",
		"Load3D.model_file", "Load3DAnimation.model_file", "OpenAIInputFiles.file", "GeminiInputFiles.file":
		return true
	}
	return false
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
