package state_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/state"
)

// Two uploads that were both let in at the door cannot both go over the bound: the
// table has the last word. What a job made is entered whatever it takes.
func TestTwoUploadsAtOnceStayWithinTheBound(t *testing.T) {
	m := state.New(quiet())
	n := 0
	do := func(c cluster.Command) error { n++; _, err := apply(t, m, c, fmt.Sprint("id", n)); return err }
	put := func(name string, r cluster.Ref, size int64) error {
		return do(&files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: name}, Ref: r, Size: size})
	}
	other := cluster.Ref(bytes.Repeat([]byte("cd"), 32))
	if err := do(&state.SetDisk{User: "", Bytes: 100}); err != nil {
		t.Fatal(err)
	}
	if err := put("a", ref, 60); err != nil {
		t.Fatal(err)
	}
	if err := put("b", other, 60); cluster.CodeOf(err) != cluster.Quota {
		t.Errorf("the second upload: %v", err)
	}
	if err := do(&files.PutDoc{User: "ann", Path: "workflows/a.json", Data: make([]byte, 90)}); err != nil {
		t.Errorf("a document is saved: %v", err)
	}
	if err := do(&state.SetDisk{User: "ann", Bytes: 1000}); err != nil {
		t.Fatal(err)
	}
	if err := put("b", other, 60); err != nil {
		t.Errorf("with a bound of their own: %v", err)
	}
}

func TestBoundsOfDisksAndOfJobsDoNotMeddle(t *testing.T) {
	m := state.New(quiet())
	n := 0
	do := func(c cluster.Command) {
		t.Helper()
		n++
		if _, err := apply(t, m, c, fmt.Sprint("id", n)); err != nil {
			t.Fatal(err)
		}
	}
	is := func(u cluster.User, want state.Quota) {
		t.Helper()
		if got := m.Settings().Quota(u); got != want {
			t.Errorf("%s has %+v, want %+v", u, got, want)
		}
	}
	do(&state.SetDisk{Bytes: 20})
	do(&state.SetQuota{Quota: state.Quota{Queued: 5}})
	is("ann", state.Quota{Queued: 5, Bytes: 20})
	do(&state.SetQuota{Quota: state.Quota{User: "ann", Running: 1}})
	is("ann", state.Quota{User: "ann", Running: 1, Bytes: 20})
	do(&state.SetDisk{User: "ann", Bytes: 30})
	do(&state.SetQuota{Quota: state.Quota{User: "ann", Running: 2}})
	is("ann", state.Quota{User: "ann", Running: 2, Bytes: 30})
	do(&state.SetQuota{Quota: state.Quota{User: "ann"}})
	is("ann", state.Quota{Queued: 5, Bytes: 30})
	do(&state.SetDisk{User: "ann"})
	do(&state.SetDisk{})
	is("ann", state.Quota{Queued: 5})
	if rows := m.Settings().Quotas; len(rows) != 1 {
		t.Errorf("rows %+v", rows)
	}
	if err := m.Permits(state.KindSetDisk); cluster.CodeOf(err) != cluster.Conflict {
		t.Errorf("at level 1: %v", err)
	}
	do(&state.SetLevel{Level: 3})
	if err := m.Permits(state.KindSetDisk); err != nil {
		t.Errorf("at level 3: %v", err)
	}
}
