package jobs

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Snapshot is the whole table as values, in one order on every replica.
type Snapshot struct {
	Seq      uint64    `cbor:"1,keyasint"`
	Rows     []Job     `cbor:"2,keyasint"` // by Seq
	Accounts []Account `cbor:"3,keyasint"` // by user
	Orphans  []Orphan  `cbor:"4,keyasint,omitempty"`
}

// Account carries a user's counters, which outlive their rows.
type Account struct {
	User      cluster.User `cbor:"1,keyasint"`
	Number    int64        `cbor:"2,keyasint"`
	EndNumber int64        `cbor:"3,keyasint"`
	Served    []Minute     `cbor:"4,keyasint,omitempty"`
	Used      int64        `cbor:"5,keyasint,omitempty"` // GPU time in microseconds, as it had decayed at UsedAt
	UsedAt    int64        `cbor:"6,keyasint,omitempty"` // minutes since 1970
}

// Snapshot copies the table.
func (t *Table) Snapshot() Snapshot {
	s := Snapshot{Seq: t.seq, Rows: make([]Job, 0, t.all.size), Orphans: slices.Clone(t.orphans)}
	t.Rows(func(j *Job) bool { s.Rows = append(s.Rows, j.copy()); return true })
	for u, a := range t.users {
		s.Accounts = append(s.Accounts, Account{User: u, Number: a.number, EndNumber: a.endNumber, Served: slices.Clone(a.served), Used: a.used, UsedAt: a.usedAt})
	}
	slices.SortFunc(s.Accounts, func(a, b Account) int { return cmp.Compare(a.User, b.User) })
	return s
}

// Restore makes a table from a snapshot.
func Restore(s Snapshot) *Table {
	t := New()
	t.seq, t.orphans = s.Seq, slices.Clone(s.Orphans)
	for _, in := range s.Accounts {
		a := t.account(in.User)
		a.number, a.endNumber, a.served = in.Number, in.EndNumber, slices.Clone(in.Served)
		a.used, a.usedAt = in.Used, in.UsedAt
	}
	rows := slices.Clone(s.Rows)
	// Ended rows are filed in the order in which they ended.
	slices.SortStableFunc(rows, func(a, b Job) int { return cmp.Compare(a.EndNumber, b.EndNumber) })
	for i := range rows {
		j := rows[i].copy()
		j.backfill()
		t.insert(&j)
	}
	t.recall()
	return t
}
