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
}

// Account carries a user's counters, which outlive their rows.
type Account struct {
	User      cluster.User `cbor:"1,keyasint"`
	Number    int64        `cbor:"2,keyasint"`
	EndNumber int64        `cbor:"3,keyasint"`
}

// Snapshot copies the table.
func (t *Table) Snapshot() Snapshot {
	s := Snapshot{Seq: t.seq}
	for _, j := range t.rows {
		s.Rows = append(s.Rows, j.copy())
	}
	slices.SortFunc(s.Rows, func(a, b Job) int { return cmp.Compare(a.Seq, b.Seq) })
	for u, a := range t.users {
		s.Accounts = append(s.Accounts, Account{User: u, Number: a.number, EndNumber: a.endNumber})
	}
	slices.SortFunc(s.Accounts, func(a, b Account) int { return cmp.Compare(a.User, b.User) })
	return s
}

// Restore makes a table from a snapshot.
func Restore(s Snapshot) *Table {
	t := New()
	t.seq = s.Seq
	for _, a := range s.Accounts {
		t.users[a.User] = &account{number: a.Number, endNumber: a.EndNumber}
	}
	rows := slices.Clone(s.Rows)
	// Ended rows are filed in the order in which they ended.
	slices.SortStableFunc(rows, func(a, b Job) int { return cmp.Compare(a.EndNumber, b.EndNumber) })
	for i := range rows {
		j := rows[i].copy()
		t.rows[j.ID] = &j
		t.place(&j)
	}
	return t
}
