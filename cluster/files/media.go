package files

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

func checkPlace(u cluster.User, p Place) error {
	if !u.Valid() || !p.Area.Valid() {
		return cluster.Errorf(cluster.Invalid, "not a place for a file")
	}
	sub, err := CleanSubfolder(p.Subfolder)
	if err != nil {
		return err
	}
	if sub != p.Subfolder {
		return cluster.Errorf(cluster.Invalid, "not a usable path")
	}
	return checkName(p.Name)
}

// maxRenames ends the search for a free "name (n)".
const maxRenames = 10_000

func (t *Table) putInput(c *PutInput, now int64) (func() any, error) {
	if err := checkPlace(c.User, c.Place); err != nil {
		return nil, err
	}
	if !c.Ref.Valid() || c.Size < 0 {
		return nil, cluster.Errorf(cluster.Invalid, "not a blob reference")
	}
	place := c.Place
	if !c.Overwrite {
		var err error
		if place, err = t.freeName(c); err != nil {
			return nil, err
		}
	}
	return func() any {
		t.home(c.User).files[place] = &File{Place: place, Ref: c.Ref, Size: c.Size, Created: now}
		return place
	}, nil
}

// freeName is ComfyUI's rule for an upload whose name is taken.
func (t *Table) freeName(c *PutInput) (Place, error) {
	h, p := t.read(c.User), c.Place
	ext := path.Ext(p.Name)
	stem := strings.TrimSuffix(p.Name, ext)
	for i := 1; i < maxRenames; i++ {
		f, taken := h.files[p]
		if !taken || f.Ref == c.Ref {
			return p, nil
		}
		p.Name = fmt.Sprintf("%s (%d)%s", stem, i, ext)
		if err := checkName(p.Name); err != nil {
			return Place{}, err
		}
	}
	return Place{}, cluster.Errorf(cluster.Conflict, "too many files are called %.60q", c.Place.Name)
}

// numbered matches the names that ComfyUI's save nodes give: prefix, five or
// more digits, underscore, extension.
var numbered = regexp.MustCompile(`^(.*)_(\d{5,9})_?(\.[^.]*)?$`)

func (t *Table) putOutputs(c *PutOutputs, now int64) (func() any, error) {
	for _, o := range c.Outputs {
		if o.Area == Input || o.Item == "" || len(o.Item) > maxPath || !o.Ref.Valid() || o.Size < 0 {
			return nil, cluster.Errorf(cluster.Invalid, "not an output")
		}
		if err := checkPlace(c.User, Place{o.Area, o.Sub, o.Name}); err != nil {
			return nil, err
		}
	}
	return func() any {
		h := t.home(c.User)
		places := make([]Place, len(c.Outputs))
		for i, o := range c.Outputs {
			key := c.Prompt + "\x00" + o.Item
			p, had := h.items[key]
			if !had {
				p = h.nextName(o)
				h.items[key] = p
			}
			h.files[p] = &File{Place: p, Ref: o.Ref, Size: o.Size, Created: now, Prompt: c.Prompt, Item: o.Item}
			places[i] = p
		}
		return places
	}, nil
}

func (t *Table) adopt(c *Adopt) (func() any, error) {
	for _, f := range c.Files {
		if err := checkPlace(c.User, f.Place); err != nil {
			return nil, err
		}
		if !f.Ref.Valid() || f.Size < 0 || len(f.Item) > maxPath || len(f.Prompt) > maxName {
			return nil, cluster.Errorf(cluster.Invalid, "not a file")
		}
	}
	return func() any {
		h := t.home(c.User)
		var entered []Place
		for _, f := range c.Files {
			if _, taken := h.files[f.Place]; taken {
				continue
			}
			h.files[f.Place] = &f
			entered = append(entered, f.Place)
		}
		return entered
	}, nil
}

// nextName gives an output the user's own number, or a free name when it is
// not of the numbered form.
func (h *home) nextName(o NewOutput) Place {
	p := Place{o.Area, o.Sub, o.Name}
	m := numbered.FindStringSubmatch(o.Name)
	if m == nil {
		for i := 1; ; i++ {
			if _, taken := h.files[p]; !taken {
				return p
			}
			ext := path.Ext(o.Name)
			p.Name = fmt.Sprintf("%s (%d)%s", strings.TrimSuffix(o.Name, ext), i, ext)
		}
	}
	counter := string(o.Area) + "/" + o.Sub + "/" + m[1]
	tail := strings.TrimPrefix(o.Name, m[1]+"_"+m[2]) // "_.png" or ".png"
	for {
		h.counters[counter]++
		n := strconv.FormatInt(h.counters[counter], 10)
		p.Name = m[1] + "_" + strings.Repeat("0", max(0, len(m[2])-len(n))) + n + tail
		if _, taken := h.files[p]; !taken {
			return p
		}
	}
}

func (t *Table) expire(c *Expire) (func() any, error) {
	if !c.User.Valid() {
		return nil, cluster.Errorf(cluster.Invalid, "not a user name")
	}
	return func() any {
		h := t.home(c.User)
		gone := map[Place]bool{}
		for p, f := range h.files {
			if p.Area == Temp && f.Created < c.Before {
				gone[p] = true
				delete(h.files, p)
			}
		}
		for k, p := range h.items {
			if gone[p] {
				delete(h.items, k)
			}
		}
		return nil
	}, nil
}

// Expired lists the users who have temporary files from before a time.
func (t *Table) Expired(before int64) (out []cluster.User) {
	for u, h := range t.homes {
		for p, f := range h.files {
			if p.Area == Temp && f.Created < before {
				out = append(out, u)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}
