// Package people is the table of those who may sign in: their names, the
// bcrypt hash of their password, whether they are let in, and which of the
// passes that stand for a password count. It never holds a password, nor what
// could be shown in place of one. It refuses names that could not be a folder of
// the site.
package people

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// The kinds of this table.
const (
	KindPut     cluster.Kind = 300
	KindDisable cluster.Kind = 301
)

// Person is one row. Times are table milliseconds.
type Person struct {
	Name     cluster.User `cbor:"1,keyasint" json:"name"`
	Hash     string       `cbor:"2,keyasint" json:"-"` // bcrypt, or another form an htpasswd file may hold
	Disabled bool         `cbor:"3,keyasint" json:"disabled"`
	Created  int64        `cbor:"4,keyasint" json:"created"`
	Changed  int64        `cbor:"5,keyasint" json:"changed"`
	Visited  int64        `cbor:"6,keyasint" json:"visited"` // first opened their ComfyUI, 0 = never
}

// Put adds a person or replaces their hash. With IfAbsent an existing person
// is left alone and Conflict is returned; with IfPresent an unknown one is
// NotFound.
type Put struct {
	Name      cluster.User `cbor:"1,keyasint"`
	Hash      string       `cbor:"2,keyasint"`
	IfAbsent  bool         `cbor:"3,keyasint,omitempty"`
	IfPresent bool         `cbor:"4,keyasint,omitempty"`
}

// Disable shuts a person out, or lets them in again with Undo. Their work stays.
type Disable struct {
	Name cluster.User `cbor:"1,keyasint"`
	Undo bool         `cbor:"2,keyasint,omitempty"`
}

// Visit notes that a person opened their ComfyUI for the first time.
type Visit struct {
	Name cluster.User `cbor:"1,keyasint"`
}

// KindVisit is Visit's kind.
const KindVisit cluster.Kind = 302

// Kind of Put.
func (Put) Kind() cluster.Kind { return KindPut }

// Kind of Disable.
func (Disable) Kind() cluster.Kind { return KindDisable }

// Kind of Visit.
func (Visit) Kind() cluster.Kind { return KindVisit }

// Table holds the rows. Not safe for concurrent use: state.Machine locks.
type Table struct {
	rows   map[cluster.User]*Person
	passes map[cluster.User]*Passes
}

// New returns an empty table.
func New() *Table {
	return &Table{rows: map[cluster.User]*Person{}, passes: map[cluster.User]*Passes{}}
}

// Person returns one row.
func (t *Table) Person(u cluster.User) (Person, bool) {
	p, ok := t.rows[u]
	if !ok {
		return Person{}, false
	}
	return *p, true
}

// People returns all rows by name.
func (t *Table) People() []Person {
	out := make([]Person, 0, len(t.rows))
	for _, p := range t.rows {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Person) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// maxHash bounds a stored hash, in bytes.
const maxHash = 256

// Plan checks a command without touching the table and returns the change to
// make, which cannot fail. A command of another table gives nil.
func (t *Table) Plan(cmd cluster.Command, now int64) (func() any, error) {
	switch c := cmd.(type) {
	case *Put:
		return t.put(c, now)
	case *Disable:
		p, ok := t.rows[c.Name]
		if !ok {
			return nil, cluster.Errorf(cluster.NotFound, "there is no user %q", c.Name)
		}
		return func() any { p.Disabled, p.Changed = !c.Undo, now; return nil }, nil
	case *Visit:
		p, ok := t.rows[c.Name]
		if !ok {
			return nil, cluster.Errorf(cluster.NotFound, "there is no user %q", c.Name)
		}
		return func() any {
			if p.Visited == 0 {
				p.Visited = now
			}
			return nil
		}, nil
	case *Give:
		return t.give(c, now)
	case *Redeem:
		return t.redeem(c, now)
	case *EndPass:
		return t.endPass(c, now)
	}
	return nil, nil
}

func (t *Table) put(c *Put, now int64) (func() any, error) {
	if !c.Name.Valid() {
		return nil, cluster.Errorf(cluster.Invalid, "a user name has 1 to 64 letters, digits, '-', '_' or '.'")
	}
	if c.Hash == "" || len(c.Hash) > maxHash {
		return nil, cluster.Errorf(cluster.Invalid, "not a password hash")
	}
	old, exists := t.rows[c.Name]
	if exists && c.IfAbsent {
		return nil, cluster.Errorf(cluster.Conflict, "user %q exists already", c.Name)
	}
	if !exists && c.IfPresent {
		return nil, cluster.Errorf(cluster.NotFound, "there is no user %q", c.Name)
	}
	return func() any {
		if exists {
			old.Hash, old.Changed = c.Hash, now
			return nil
		}
		t.rows[c.Name] = &Person{Name: c.Name, Hash: c.Hash, Created: now, Changed: now}
		return nil
	}, nil
}

// Snapshot is the whole table by name.
type Snapshot struct {
	Rows   []Person `cbor:"1,keyasint"`
	Passes []Passes `cbor:"2,keyasint,omitempty"`
}

// Snapshot copies the table.
func (t *Table) Snapshot() Snapshot { return Snapshot{Rows: t.People(), Passes: t.passRows()} }

// Restore makes a table from a snapshot.
func Restore(s Snapshot) *Table {
	t := New()
	for _, p := range s.Rows {
		t.rows[p.Name] = &p
	}
	for _, r := range s.Passes {
		t.passes[r.User] = &r
	}
	return t
}
