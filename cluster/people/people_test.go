package people_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

func TestPeople(t *testing.T) {
	tab := people.New()
	now := int64(0)
	do := func(c cluster.Command) cluster.Code {
		now += 1000
		mutate, err := tab.Plan(c, now)
		if err != nil {
			return cluster.CodeOf(err)
		}
		mutate()
		return ""
	}
	steps := []struct {
		what string
		cmd  cluster.Command
		want cluster.Code
	}{
		{"add", &people.Put{Name: "ann", Hash: "h1", IfAbsent: true}, ""},
		{"add again", &people.Put{Name: "ann", Hash: "h2", IfAbsent: true}, cluster.Conflict},
		{"new password", &people.Put{Name: "ann", Hash: "h2", IfPresent: true}, ""},
		{"new password of nobody", &people.Put{Name: "bob", Hash: "h", IfPresent: true}, cluster.NotFound},
		{"a name that leaves its folder", &people.Put{Name: "../ann", Hash: "h"}, cluster.Invalid},
		{"no hash", &people.Put{Name: "cec", Hash: ""}, cluster.Invalid},
		{"first visit", &people.Visit{Name: "ann"}, ""},
		{"second visit", &people.Visit{Name: "ann"}, ""},
		{"disable", &people.Disable{Name: "ann"}, ""},
		{"disable nobody", &people.Disable{Name: "bob"}, cluster.NotFound},
	}
	for _, s := range steps {
		if got := do(s.cmd); got != s.want {
			t.Errorf("%s: %q, want %q", s.what, got, s.want)
		}
	}
	want := people.Person{Name: "ann", Hash: "h2", Disabled: true, Created: 1000, Changed: 9000, Visited: 7000}
	got, _ := people.Restore(tab.Snapshot()).Person("ann")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
