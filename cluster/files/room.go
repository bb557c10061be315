package files

import (
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// KindRemove is the kind of Remove, since level 3.
const KindRemove cluster.Kind = 208

// Remove takes media files out of a user's folders. One that is another by now
// stays. Answer: how many went.
type Remove struct {
	User  cluster.User `cbor:"1,keyasint"`
	Files []Picked     `cbor:"2,keyasint"`
}

// Picked is a file as it was when somebody chose it.
type Picked struct {
	Place Place       `cbor:"1,keyasint"`
	Ref   cluster.Ref `cbor:"2,keyasint"`
}

// Kind of Remove.
func (Remove) Kind() cluster.Kind { return KindRemove }

// MaxRemoved bounds the files of one Remove: an entry is small.
const MaxRemoved = 500

func (t *Table) remove(c *Remove) (func() any, error) {
	if !c.User.Valid() || len(c.Files) == 0 || len(c.Files) > MaxRemoved {
		return nil, cluster.Errorf(cluster.Invalid, "name 1 to %d files to remove", MaxRemoved)
	}
	return func() any {
		h, gone := t.home(c.User), map[Place]bool{}
		for _, p := range c.Files {
			if f := h.files[p.Place]; f != nil && f.Ref == p.Ref {
				gone[p.Place] = true
				delete(h.files, p.Place)
			}
		}
		for k, p := range h.items {
			if gone[p] {
				delete(h.items, k)
			}
		}
		return len(gone)
	}, nil
}

// Used is what a user's files take, in bytes. The same bytes count once, as an
// output first; temporary ones, which go by themselves, do not count.
type Used struct {
	Outputs int64 `json:"outputs"`
	Inputs  int64 `json:"inputs"`
	Docs    int64 `json:"documents"`
}

// Total of all.
func (u Used) Total() int64 { return u.Outputs + u.Inputs + u.Docs }

// Used counts what a user has.
func (t *Table) Used(u cluster.User) Used { return t.used(u, nil) }

// used counts as if an upload were there already.
func (t *Table) used(u cluster.User, put *PutInput) (out Used) {
	h, seen := t.read(u), map[cluster.Ref]bool{}
	add := func(to *int64, ref cluster.Ref, size int64) {
		if ref == "" || !seen[ref] {
			*to += size
		}
		seen[ref] = true
	}
	for _, pass := range []struct {
		area Area
		sum  *int64
	}{{Output, &out.Outputs}, {Input, &out.Inputs}} {
		if put != nil && put.Place.Area == pass.area {
			add(pass.sum, put.Ref, put.Size)
		}
		for p, f := range h.files {
			if p.Area == pass.area && !(put != nil && put.Overwrite && p == put.Place) {
				add(pass.sum, f.Ref, f.Size)
			}
		}
	}
	for _, d := range h.docs {
		add(&out.Docs, d.Ref, d.Size)
	}
	return out
}

// CheckRoom refuses, with Quota, an upload with which a user would have more than
// bound bytes.
func (t *Table) CheckRoom(c *PutInput, bound int64) error {
	if c.Place.Area == Temp {
		return nil
	}
	have := t.Used(c.User)
	if with := t.used(c.User, c).Total(); with > bound && with > have.Total() {
		return have.Over(c.User, c.Size, bound)
	}
	return nil
}

// Over says that n bytes more are over the bound, what takes the space, and what
// to do.
func (u Used) Over(user cluster.User, n, bound int64) error {
	more := ""
	if n > 0 {
		more = fmt.Sprintf(" and this file has %s", gigabytes(n))
	}
	return cluster.Errorf(cluster.Quota, "You use %s of the %s that you may have%s: results %s, uploads %s, documents %s. Nothing was changed. Remove what you do not need any more at /%s/workshop/files, or ask the instructor.",
		gigabytes(u.Total()), gigabytes(bound), more, gigabytes(u.Outputs), gigabytes(u.Inputs), gigabytes(u.Docs), user)
}

// gigabytes are words made of whole numbers: they are part of an answer that is the
// same everywhere.
func gigabytes(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%d.%d GB", n/1e9, n%1e9/1e8)
	case n >= 1e6:
		return fmt.Sprintf("%d MB", n/1e6)
	}
	return fmt.Sprintf("%d kB", (n+999)/1000)
}

// Old lists, for each user, the files of an area that were made before a time.
func (t *Table) Old(a Area, before int64) map[cluster.User][]Picked {
	out := map[cluster.User][]Picked{}
	for u, h := range t.homes {
		for p, f := range h.files {
			if p.Area == a && f.Created < before {
				out[u] = append(out[u], Picked{p, f.Ref})
			}
		}
		slices.SortFunc(out[u], func(x, y Picked) int { return comparePlaces(x.Place, y.Place) })
	}
	return out
}
