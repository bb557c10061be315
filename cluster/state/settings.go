package state

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// Scope says what a pause holds up: "all", "user/NAME" or "worker/ID".
type Scope string

// PauseAll holds up everything.
const PauseAll Scope = "all"

// PauseUser holds up one user's jobs.
func PauseUser(u cluster.User) Scope { return Scope("user/" + string(u)) }

// PauseWorker keeps one worker from new jobs.
func PauseWorker(w cluster.WorkerID) Scope { return Scope("worker/" + string(w)) }

func (s Scope) valid() bool {
	kind, name, named := strings.Cut(string(s), "/")
	return s == PauseAll || named && (kind == "user" || kind == "worker") && name != "" && len(s) <= maxNodeText
}

// Pause is one thing that is held up. Running jobs go on to their end.
type Pause struct {
	Scope Scope  `cbor:"1,keyasint" json:"scope"`
	At    int64  `cbor:"2,keyasint" json:"at"` // table milliseconds
	Actor string `cbor:"3,keyasint" json:"actor"`
	Why   string `cbor:"4,keyasint,omitempty" json:"why,omitempty"`
}

// The kinds of settings.
const (
	KindSetMode       cluster.Kind = 20
	KindSetPause      cluster.Kind = 21
	KindSetInstructor cluster.Kind = 22
)

// SetMode chooses the rule by which waiting jobs are ordered. What the modes
// are called is policy's: the table keeps the word.
type SetMode struct {
	Mode string `cbor:"1,keyasint"`
}

// SetPause holds something up, or lets it go again with Undo. Resuming "all"
// leaves the pauses of single users and workers.
type SetPause struct {
	Scope Scope  `cbor:"1,keyasint"`
	Undo  bool   `cbor:"2,keyasint,omitempty"`
	Why   string `cbor:"3,keyasint,omitempty"`
}

// SetInstructor keeps the bcrypt hash of the password with which the
// instructor signs in at any gateway. With IfAbsent one that stands is kept.
type SetInstructor struct {
	Hash     string `cbor:"1,keyasint"`
	IfAbsent bool   `cbor:"2,keyasint,omitempty"`
}

// Kind of SetInstructor.
func (SetInstructor) Kind() cluster.Kind { return KindSetInstructor }

// Kind of SetMode.
func (SetMode) Kind() cluster.Kind { return KindSetMode }

// Kind of SetPause.
func (SetPause) Kind() cluster.Kind { return KindSetPause }

// Bounds of the settings.
const (
	maxPauses = 500
	maxWhy    = 200
)

// Settings are the workshop's own, the same for all nodes.
type Settings struct {
	Mode   string  `cbor:"1,keyasint,omitempty" json:"mode"` // "" = the policy's first
	Pauses []Pause `cbor:"2,keyasint,omitempty" json:"pauses"`
	// Instructor is a password's hash: it is shown to nobody.
	Instructor string `cbor:"3,keyasint,omitempty" json:"-"`

	Class  *Class  `cbor:"4,keyasint,omitempty" json:"class,omitempty"` // nil = everybody runs freely
	Quotas []Quota `cbor:"5,keyasint,omitempty" json:"quotas,omitempty"`
	Boosts []Boost `cbor:"6,keyasint,omitempty" json:"boosts,omitempty"` // those whose time is over may stand here still
}

func (s *Settings) plan(cmd cluster.Command, now int64, actor string) (func() any, error) {
	switch c := cmd.(type) {
	case *SetMode:
		if c.Mode == "" || len(c.Mode) > maxNodeText {
			return nil, cluster.Errorf(cluster.Invalid, "a queue mode has a name")
		}
		return func() any { s.Mode = c.Mode; return nil }, nil
	case *SetInstructor:
		if c.Hash == "" || len(c.Hash) > maxNodeText {
			return nil, cluster.Errorf(cluster.Invalid, "not a password hash")
		}
		return func() any {
			if !c.IfAbsent || s.Instructor == "" {
				s.Instructor = c.Hash
			}
			return nil
		}, nil
	case *SetPause:
		at, paused := slices.BinarySearchFunc(s.Pauses, c.Scope, func(p Pause, scope Scope) int { return cmp.Compare(p.Scope, scope) })
		switch {
		case !c.Scope.valid():
			return nil, cluster.Errorf(cluster.Invalid, "%q cannot be paused: all, user/NAME or worker/ID can", c.Scope)
		case c.Undo && !paused:
			return func() any { return nil }, nil
		case !c.Undo && !paused && len(s.Pauses) >= maxPauses:
			return nil, cluster.Errorf(cluster.Quota, "%d things are paused already: resume some", maxPauses)
		}
		return func() any {
			if c.Undo {
				s.Pauses = slices.Delete(slices.Clone(s.Pauses), at, at+1)
				return nil
			}
			p := Pause{Scope: c.Scope, At: now, Actor: actor, Why: cluster.Clip(c.Why, maxWhy)}
			if paused {
				s.Pauses = slices.Clone(s.Pauses)
				s.Pauses[at] = p
				return nil
			}
			s.Pauses = slices.Insert(slices.Clone(s.Pauses), at, p)
			return nil
		}, nil
	}
	return s.planClass(cmd, now, actor)
}

func (s *Settings) digest(d *cluster.Digest) {
	d.Row("settings").Text(s.Mode).Text(s.Instructor)
	s.digestClass(d)
	for _, p := range s.Pauses {
		d.Row("pause").Text(string(p.Scope)).Int(p.At).Text(p.Actor).Text(p.Why)
	}
}

// Paused returns the pause of a scope.
func (s Settings) Paused(scope Scope) (Pause, bool) {
	i := slices.IndexFunc(s.Pauses, func(p Pause) bool { return p.Scope == scope })
	if i < 0 {
		return Pause{}, false
	}
	return s.Pauses[i], true
}

// Settings returns the workshop's settings.
func (m *Machine) Settings() Settings {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.settings // its list is replaced, never changed
}
