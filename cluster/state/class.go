package state

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// The kinds of what the instructor sets for a class, since level 2.
const (
	KindSetClass cluster.Kind = 23
	KindSetQuota cluster.Kind = 24
	KindSetBoost cluster.Kind = 25
	KindSetDisk  cluster.Kind = 26 // since level 3
)

// SetClass chooses what the class does now; what the words mean is policy's.
type SetClass struct {
	Mode  string `cbor:"1,keyasint"`
	N     int64  `cbor:"2,keyasint,omitempty"` // sprint: jobs of each
	Until int64  `cbor:"3,keyasint,omitempty"` // wind-down: the end, table milliseconds
}

// SetQuota bounds a user, or with User "" everybody who has no bounds of their
// own. Without any bound the row is removed. That of the disk stays as it is.
type SetQuota struct {
	Quota Quota `cbor:"1,keyasint"`
}

// SetDisk bounds what a user's files may take, or with User "" everybody's who has
// no such bound of their own; 0 ends it.
type SetDisk struct {
	User  cluster.User `cbor:"1,keyasint"`
	Bytes int64        `cbor:"2,keyasint"`
}

// SetBoost lets a user's jobs go before others' until a time; 0 ends it.
type SetBoost struct {
	User  cluster.User `cbor:"1,keyasint"`
	Until int64        `cbor:"2,keyasint"`
}

// Class is what the class does.
type Class struct {
	Mode  string `cbor:"1,keyasint" json:"mode"`
	N     int64  `cbor:"2,keyasint,omitempty" json:"n,omitempty"`
	Since int64  `cbor:"3,keyasint" json:"since"`
	Until int64  `cbor:"4,keyasint,omitempty" json:"until,omitempty"`
	Actor string `cbor:"5,keyasint" json:"actor"`
}

// Quota bounds a user; 0 = no bound.
type Quota struct {
	User    cluster.User `cbor:"1,keyasint" json:"user"` // "" = everybody else
	Queued  int64        `cbor:"2,keyasint,omitempty" json:"queued,omitempty"`
	Running int64        `cbor:"3,keyasint,omitempty" json:"running,omitempty"`
	Minutes int64        `cbor:"4,keyasint,omitempty" json:"gpu_minutes,omitempty"` // of GPU time in 24 hours
	Bytes   int64        `cbor:"5,keyasint,omitempty" json:"bytes,omitempty"`       // of distinct files
}

// Boost is a user whose jobs go first.
type Boost struct {
	User  cluster.User `cbor:"1,keyasint" json:"user"`
	Until int64        `cbor:"2,keyasint" json:"until"`
	Actor string       `cbor:"3,keyasint" json:"actor"`
}

// Kind of SetClass.
func (SetClass) Kind() cluster.Kind { return KindSetClass }

// Kind of SetQuota.
func (SetQuota) Kind() cluster.Kind { return KindSetQuota }

// Kind of SetDisk.
func (SetDisk) Kind() cluster.Kind { return KindSetDisk }

// Kind of SetBoost.
func (SetBoost) Kind() cluster.Kind { return KindSetBoost }

const maxQuotas = 1000

// planClass checks the commands of this file.
func (s *Settings) planClass(cmd cluster.Command, now int64, actor string) (func() any, error) {
	switch c := cmd.(type) {
	case *SetClass:
		if c.Mode == "" || len(c.Mode) > maxNodeText || c.N < 0 || c.Until < 0 {
			return nil, cluster.Errorf(cluster.Invalid, "a class mode has a name")
		}
		return func() any {
			s.Class = &Class{Mode: c.Mode, N: c.N, Since: now, Until: c.Until, Actor: actor}
			return nil
		}, nil
	case *SetQuota:
		q := c.Quota
		q.Bytes = s.quotaOf(q.User).Bytes
		if q.Queued < 0 || q.Running < 0 || q.Minutes < 0 || q.User != "" && !q.User.Valid() {
			return nil, cluster.Errorf(cluster.Invalid, "a quota is a number of jobs or minutes, 0 = none")
		}
		return s.planQuota(q)
	case *SetDisk:
		if c.Bytes < 0 || c.User != "" && !c.User.Valid() {
			return nil, cluster.Errorf(cluster.Invalid, "a bound of disk space is a number of bytes, 0 = none")
		}
		q := s.quotaOf(c.User)
		q.User, q.Bytes = c.User, c.Bytes
		return s.planQuota(q)
	case *SetBoost:
		if !c.User.Valid() {
			return nil, cluster.Errorf(cluster.Invalid, "whose jobs shall go first?")
		}
		others := slices.DeleteFunc(slices.Clone(s.Boosts), func(o Boost) bool { return o.User == c.User || o.Until <= now })
		return func() any {
			if s.Boosts = others; c.Until > now {
				s.Boosts = append(s.Boosts, Boost{c.User, c.Until, actor})
			}
			return nil
		}, nil
	}
	return nil, nil
}

// planQuota puts a row in the place of that user's.
func (s *Settings) planQuota(q Quota) (func() any, error) {
	others := slices.DeleteFunc(slices.Clone(s.Quotas), func(o Quota) bool { return o.User == q.User })
	if len(others) >= maxQuotas {
		return nil, cluster.Errorf(cluster.Quota, "%d quotas are set already", maxQuotas)
	}
	return func() any {
		if s.Quotas = others; q != (Quota{User: q.User}) {
			s.Quotas = append(s.Quotas, q)
		}
		return nil
	}, nil
}

// quotaOf is exactly that user's row.
func (s *Settings) quotaOf(u cluster.User) Quota {
	for _, q := range s.Quotas {
		if q.User == u {
			return q
		}
	}
	return Quota{User: u}
}

func (s *Settings) digestClass(d *cluster.Digest) {
	if c := s.Class; c != nil {
		d.Row("class").Text(c.Mode).Int(c.N).Int(c.Since).Int(c.Until).Text(c.Actor)
	}
	for _, q := range s.Quotas {
		d.Row("quota").Text(string(q.User)).Int(q.Queued).Int(q.Running).Int(q.Minutes)
		if q.Bytes > 0 { // as it was before there was such a bound: an older build is compared with
			d.Row("quota of disk").Text(string(q.User)).Int(q.Bytes)
		}
	}
	for _, b := range s.Boosts {
		d.Row("boost").Text(string(b.User)).Int(b.Until).Text(b.Actor)
	}
}

// Quota is what bounds a user: a row of their own, else everybody's. The disk is
// bound for everybody also while a user has other bounds of their own.
func (s Settings) Quota(u cluster.User) Quota {
	own, all := s.quotaOf(u), s.quotaOf("")
	out := own
	if own.Queued+own.Running+own.Minutes == 0 {
		out = all
	}
	if out.Bytes = own.Bytes; out.Bytes == 0 {
		out.Bytes = all.Bytes
	}
	return out
}
