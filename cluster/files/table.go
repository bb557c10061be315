package files

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// Doc is a document of a user: a workflow, a subgraph, user.css. Times are
// table milliseconds.
type Doc struct {
	Path     string      `cbor:"1,keyasint"`
	Data     []byte      `cbor:"2,keyasint,omitempty"` // when Ref is empty
	Ref      cluster.Ref `cbor:"3,keyasint,omitempty"`
	Size     int64       `cbor:"4,keyasint"`
	Created  int64       `cbor:"5,keyasint"`
	Modified int64       `cbor:"6,keyasint"`
	// Gone marks a template the user deleted or moved away: it hides the
	// workshop's copy of that name.
	Gone bool `cbor:"7,keyasint,omitempty"`
}

// Place says where a media file stands in a user's ComfyUI.
type Place struct {
	Area      Area   `cbor:"1,keyasint" json:"type"`
	Subfolder string `cbor:"2,keyasint" json:"subfolder"`
	Name      string `cbor:"3,keyasint" json:"filename"`
}

// File is a media file of a user. Its bytes are the blob Ref.
type File struct {
	Place   Place       `cbor:"1,keyasint"`
	Ref     cluster.Ref `cbor:"2,keyasint"`
	Size    int64       `cbor:"3,keyasint"`
	Created int64       `cbor:"4,keyasint"`
	Prompt  string      `cbor:"5,keyasint,omitempty"` // the job that made it
	Item    string      `cbor:"6,keyasint,omitempty"` // which item of which node: the same item keeps its name
}

// Setting is one key of a user's ComfyUI settings; Value is raw JSON.
type Setting struct {
	Key   string `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint"`
}

type home struct {
	docs     map[string]*Doc
	settings map[string][]byte
	files    map[Place]*File
	counters map[string]int64 // area/subfolder/prefix -> last number given
	items    map[string]Place // prompt + item -> name given
}

// Table holds the rows. It is not safe for concurrent use: state.Machine locks.
// What it hands out are copies; Data is never written in place.
type Table struct {
	homes map[cluster.User]*home
}

// New returns an empty table.
func New() *Table { return &Table{homes: map[cluster.User]*home{}} }

func newHome() *home {
	return &home{docs: map[string]*Doc{}, settings: map[string][]byte{}, files: map[Place]*File{}, counters: map[string]int64{}, items: map[string]Place{}}
}

var nobody = newHome() // what users without rows read from; never written

func (t *Table) read(u cluster.User) *home {
	if h := t.homes[u]; h != nil {
		return h
	}
	return nobody
}

func (t *Table) home(u cluster.User) *home {
	h := t.homes[u]
	if h == nil {
		h = newHome()
		t.homes[u] = h
	}
	return h
}

// Doc returns one document. A row that is Gone is returned with ok true.
func (t *Table) Doc(u cluster.User, path string) (Doc, bool) {
	d, ok := t.read(u).docs[path]
	if !ok {
		return Doc{}, false
	}
	return *d, true
}

// Docs returns a user's documents under a folder ("" = all), by path, without
// their Data; Gone rows are included.
func (t *Table) Docs(u cluster.User, dir string) []Doc {
	var out []Doc
	for p, d := range t.read(u).docs {
		if dir == "" || strings.HasPrefix(p, dir+"/") {
			c := *d
			c.Data = nil
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Doc) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// Settings returns all of a user's settings, by key.
func (t *Table) Settings(u cluster.User) []Setting {
	h := t.read(u)
	out := make([]Setting, 0, len(h.settings))
	for k, v := range h.settings {
		out = append(out, Setting{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b Setting) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// File returns one media file.
func (t *Table) File(u cluster.User, p Place) (File, bool) {
	f, ok := t.read(u).files[p]
	if !ok {
		return File{}, false
	}
	return *f, true
}

// Files returns a user's media files of one area, newest first.
func (t *Table) Files(u cluster.User, a Area) []File {
	var out []File
	for p, f := range t.read(u).files {
		if p.Area == a {
			out = append(out, *f)
		}
	}
	slices.SortFunc(out, func(x, y File) int {
		return cmp.Or(cmp.Compare(y.Created, x.Created), cmp.Compare(x.Place.Subfolder, y.Place.Subfolder), cmp.Compare(x.Place.Name, y.Place.Name))
	})
	return out
}

// Refs lists the blobs of some users' documents and media files, or of all.
func (t *Table) Refs(users map[cluster.User]bool, all bool) (out []cluster.Ref) {
	for u, h := range t.homes {
		if !all && !users[u] {
			continue
		}
		for _, d := range h.docs {
			if d.Ref != "" {
				out = append(out, d.Ref)
			}
		}
		for _, f := range h.files {
			out = append(out, f.Ref)
		}
	}
	return out
}
