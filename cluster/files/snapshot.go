package files

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Snapshot is the whole table as values, in one order on every replica.
type Snapshot struct {
	Homes []Home `cbor:"1,keyasint"`
}

// Home is all of one user.
type Home struct {
	User     cluster.User `cbor:"1,keyasint"`
	Docs     []Doc        `cbor:"2,keyasint"`
	Settings []Setting    `cbor:"3,keyasint"`
	Files    []File       `cbor:"4,keyasint"`
	Counters []Counter    `cbor:"5,keyasint"`
	Items    []Item       `cbor:"6,keyasint"`
}

// Counter is the last number given to a prefix.
type Counter struct {
	Key string `cbor:"1,keyasint"`
	N   int64  `cbor:"2,keyasint"`
}

// Item is a name given to an item of a job.
type Item struct {
	Key   string `cbor:"1,keyasint"`
	Place Place  `cbor:"2,keyasint"`
}

// Snapshot copies the table.
func (t *Table) Snapshot() Snapshot {
	var s Snapshot
	for _, u := range slices.Sorted(maps.Keys(t.homes)) {
		h := t.homes[u]
		out := Home{User: u, Settings: t.Settings(u)}
		for _, p := range slices.Sorted(maps.Keys(h.docs)) {
			out.Docs = append(out.Docs, *h.docs[p])
		}
		for _, f := range h.files {
			out.Files = append(out.Files, *f)
		}
		slices.SortFunc(out.Files, func(a, b File) int { return comparePlaces(a.Place, b.Place) })
		for _, k := range slices.Sorted(maps.Keys(h.counters)) {
			out.Counters = append(out.Counters, Counter{k, h.counters[k]})
		}
		for _, k := range slices.Sorted(maps.Keys(h.items)) {
			out.Items = append(out.Items, Item{k, h.items[k]})
		}
		s.Homes = append(s.Homes, out)
	}
	return s
}

func comparePlaces(a, b Place) int {
	return cmp.Or(cmp.Compare(a.Area, b.Area), cmp.Compare(a.Subfolder, b.Subfolder), cmp.Compare(a.Name, b.Name))
}

// Restore makes a table from a snapshot.
func Restore(s Snapshot) *Table {
	t := New()
	for _, in := range s.Homes {
		h := newHome()
		for _, d := range in.Docs {
			h.docs[d.Path] = &d
		}
		for _, v := range in.Settings {
			h.settings[v.Key] = v.Value
		}
		for _, f := range in.Files {
			h.files[f.Place] = &f
		}
		for _, c := range in.Counters {
			h.counters[c.Key] = c.N
		}
		for _, i := range in.Items {
			h.items[i.Key] = i.Place
		}
		t.homes[in.User] = h
	}
	return t
}
