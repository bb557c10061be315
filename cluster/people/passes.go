package people

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// PassKind says what a pass is for.
type PassKind string

// The kinds of passes: a signed text lets its holder in without a password.
const (
	Session PassKind = "session" // of one browser, until it signs out
	Link    PassKind = "link"    // signs in once
	Token   PassKind = "token"   // of a program, as a Bearer
)

// Pass is one pass. Its text is signed and stands nowhere in the table.
type Pass struct {
	ID    string   `cbor:"1,keyasint" json:"id"` // random
	Kind  PassKind `cbor:"2,keyasint" json:"kind"`
	Until int64    `cbor:"3,keyasint" json:"until"` // table milliseconds
}

// Passes is what the table has to know of one user's passes for all gateways to
// agree on which of them count. The instructor has a row too.
type Passes struct {
	User  cluster.User `cbor:"1,keyasint"`
	Era   int64        `cbor:"2,keyasint,omitempty"` // sessions of another era do not count
	Given []Pass       `cbor:"3,keyasint,omitempty"` // links and tokens that count
	Ended []Pass       `cbor:"4,keyasint,omitempty"` // sessions that were signed out and would go on
}

// Give makes a link or a token count. A person has one link: a new one voids
// the one before.
type Give struct {
	Name cluster.User `cbor:"1,keyasint"`
	Pass Pass         `cbor:"2,keyasint"`
}

// Redeem uses a link up. Conflict says that it was used, or replaced, or is over:
// the first gateway to ask gets it, and no other.
type Redeem struct {
	Name cluster.User `cbor:"1,keyasint"`
	ID   string       `cbor:"2,keyasint"`
}

// EndPass ends a session or a token, or with All everything the user has.
// Until is how long a session would have gone on.
type EndPass struct {
	Name cluster.User `cbor:"1,keyasint"`
	Pass Pass         `cbor:"2,keyasint"`
	All  bool         `cbor:"3,keyasint,omitempty"`
}

// The kinds of commands about passes.
const (
	KindGive    cluster.Kind = 303
	KindRedeem  cluster.Kind = 304
	KindEndPass cluster.Kind = 305
)

// Kind of Give.
func (Give) Kind() cluster.Kind { return KindGive }

// Kind of Redeem.
func (Redeem) Kind() cluster.Kind { return KindRedeem }

// Kind of EndPass.
func (EndPass) Kind() cluster.Kind { return KindEndPass }

// Bounds of one user's row.
const (
	maxPassID = 64
	maxTokens = 20
	maxEnded  = 50
)

// Era of a user's sessions now.
func (t *Table) Era(u cluster.User) int64 {
	if r, ok := t.passes[u]; ok {
		return r.Era
	}
	return 0
}

// Counts reports whether a pass counts: a session of this era that was not ended,
// or a link or token that was given and neither used up nor ended. That it has
// not run out is for who reads its text to say.
func (t *Table) Counts(u cluster.User, kind PassKind, id string, era int64) bool {
	r, ok := t.passes[u]
	if kind == Session {
		return !ok && era == 0 || ok && r.Era == era && !has(r.Ended, kind, id)
	}
	return ok && has(r.Given, kind, id)
}

// Tokens are a user's tokens that count.
func (t *Table) Tokens(u cluster.User) (out []Pass) {
	if r, ok := t.passes[u]; ok {
		out = slices.DeleteFunc(slices.Clone(r.Given), func(p Pass) bool { return p.Kind != Token })
	}
	return out
}

func has(list []Pass, kind PassKind, id string) bool {
	return slices.ContainsFunc(list, func(p Pass) bool { return p.ID == id && p.Kind == kind })
}

func (t *Table) give(c *Give, now int64) (func() any, error) {
	p, ok := t.rows[c.Name]
	switch {
	case !ok:
		return nil, cluster.Errorf(cluster.NotFound, "there is no user %q", c.Name)
	case p.Disabled:
		return nil, cluster.Errorf(cluster.Conflict, "%s is shut out: let them in first", c.Name)
	case !c.Pass.valid() || c.Pass.Kind != Link && c.Pass.Kind != Token || c.Pass.Until <= now:
		return nil, cluster.Errorf(cluster.Invalid, "not a link or token that could be given")
	}
	if tokens := open(t.Tokens(c.Name), now); c.Pass.Kind == Token && len(tokens) >= maxTokens {
		return nil, cluster.Errorf(cluster.Quota, "%s has %d tokens: end those that are not used any more", c.Name, len(tokens))
	}
	return func() any {
		r := t.row(c.Name, now)
		if c.Pass.Kind == Link {
			r.Given = slices.DeleteFunc(r.Given, func(p Pass) bool { return p.Kind == Link })
		}
		r.Given = append(r.Given, c.Pass)
		return nil
	}, nil
}

func (t *Table) redeem(c *Redeem, now int64) (func() any, error) {
	r, ok := t.passes[c.Name]
	if !ok || !has(open(r.Given, now), Link, c.ID) {
		return nil, cluster.Errorf(cluster.Conflict, "This sign-in link was used already, or a newer one was made, or its time is over. Ask the instructor for another.")
	}
	return func() any {
		r.Given = slices.DeleteFunc(r.Given, func(p Pass) bool { return p.ID == c.ID && p.Kind == Link })
		return nil
	}, nil
}

func (t *Table) endPass(c *EndPass, now int64) (func() any, error) {
	r, ok := t.passes[c.Name]
	known := ok && slices.ContainsFunc(r.Given, func(p Pass) bool { return p.ID == c.Pass.ID })
	switch {
	case !c.Name.Valid():
		return nil, cluster.Errorf(cluster.Invalid, "not a user's name")
	case c.All || known:
	case c.Pass.Kind != Session:
		return nil, cluster.Errorf(cluster.NotFound, "%s has no such token", c.Name)
	case !c.Pass.valid():
		return nil, cluster.Errorf(cluster.Invalid, "not a session")
	}
	return func() any {
		r := t.row(c.Name, now)
		switch {
		case c.All:
			r.Era, r.Given, r.Ended = r.Era+1, nil, nil
		case known:
			r.Given = slices.DeleteFunc(r.Given, func(p Pass) bool { return p.ID == c.Pass.ID })
		case has(r.Ended, Session, c.Pass.ID):
		case len(r.Ended) >= maxEnded:
			// More than are remembered: all of them end, and none comes to life again.
			r.Era, r.Ended = r.Era+1, nil
		default:
			r.Ended = append(r.Ended, c.Pass)
		}
		return nil
	}, nil
}

// row is a user's row, made if there is none, without what has run out.
func (t *Table) row(u cluster.User, now int64) *Passes {
	r, ok := t.passes[u]
	if !ok {
		r = &Passes{User: u}
		t.passes[u] = r
	}
	r.Given, r.Ended = open(r.Given, now), open(r.Ended, now)
	return r
}

// open are those that have not run out; the list itself stays as it is.
func open(list []Pass, now int64) []Pass {
	return slices.DeleteFunc(slices.Clone(list), func(p Pass) bool { return p.Until <= now })
}

func (p Pass) valid() bool {
	return p.ID != "" && len(p.ID) <= maxPassID && (p.Kind == Session || p.Kind == Link || p.Kind == Token)
}

func (t *Table) passRows() []Passes {
	out := make([]Passes, 0, len(t.passes))
	for _, r := range t.passes {
		c := *r
		c.Given, c.Ended = slices.Clone(r.Given), slices.Clone(r.Ended)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Passes) int { return cmp.Compare(a.User, b.User) })
	return out
}

func (t *Table) digestPasses(d *cluster.Digest) {
	for _, r := range t.passes {
		d.Row("passes").Text(string(r.User)).Int(r.Era)
		for _, list := range [][]Pass{r.Given, r.Ended} {
			d.Int(int64(len(list)))
			for _, p := range list {
				d.Text(p.ID).Text(string(p.Kind)).Int(p.Until)
			}
		}
	}
}
