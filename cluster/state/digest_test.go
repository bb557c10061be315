package state

import (
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
)

// everything is a snapshot in which each list has a row.
func everything() snapshot {
	return snapshot{
		Version: snapshotVersion, Index: 7, Now: 8, Level: 1, Checked: 2,
		Jobs: jobs.Snapshot{Seq: 1},
		Files: files.Snapshot{Homes: []files.Home{{
			User: "ann", Docs: []files.Doc{{Path: "a", Data: []byte("x")}}, Settings: []files.Setting{{Key: "k", Value: []byte("v")}},
			Files: []files.File{{Place: files.Place{Area: files.Input, Name: "n"}, Ref: "r"}}, Counters: []files.Counter{{Key: "c", N: 1}}, Items: []files.Item{{Key: "i"}},
		}}},
		People: people.Snapshot{
			Rows:   []people.Person{{Name: "ann"}},
			Passes: []people.Passes{{User: "ann", Given: []people.Pass{{ID: "l"}}, Ended: []people.Pass{{ID: "s"}}}},
		},
		Models:   models.Snapshot{Rows: []models.Worker{{ID: "w"}}},
		Seen:     []memory{{ID: "id", At: 1, Answer: []byte("a")}},
		Audit:    []Audit{{At: 1, Actor: "a", What: "w"}},
		Nodes:    []Node{{Member: cluster.Member{ID: "n", Roles: []cluster.Role{"gpu"}}, Drain: &Drain{At: 1}, Key: []byte("k")}},
		Settings: Settings{Mode: "m", Pauses: []Pause{{Scope: "all"}}, Instructor: "h", Class: &Class{Mode: "sprint"}, Quotas: []Quota{{User: "ann", Queued: 1, Bytes: 1}}, Boosts: []Boost{{User: "ann"}}},
	}
}

func digestOf(s snapshot) uint64 {
	m := New(slog.New(slog.DiscardHandler))
	m.index, m.now, m.level = s.Index, s.Now, s.Level
	m.jobs, m.files, m.people, m.models, m.nodes = jobs.Restore(s.Jobs), files.Restore(s.Files), people.Restore(s.People), models.Restore(s.Models), restoreNodes(s.Nodes)
	m.seen, m.audit, m.settings = restoreRemembered(s.Seen), s.Audit, s.Settings
	return m.digest()
}

// TestDigestNoticesEveryField changes each field of all that is stored, one at
// a time: a field that the digest forgets is one in which replicas may differ
// unseen. The jobs' own rows are tried in their package.
func TestDigestNoticesEveryField(t *testing.T) {
	want := digestOf(everything())
	if want != digestOf(everything()) {
		t.Fatal("equal states have different digests")
	}
	tried := 0
	var walk func(path string, at func(*snapshot) reflect.Value)
	walk = func(path string, at func(*snapshot) reflect.Value) {
		probe := everything()
		v := at(&probe)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, func(s *snapshot) reflect.Value { return at(s).Field(i) })
			}
			return
		case reflect.Slice:
			if v.Type().Elem().Kind() != reflect.Uint8 {
				for i := range v.Len() {
					walk(fmt.Sprint(path, "[", i, "]"), func(s *snapshot) reflect.Value { return at(s).Index(i) })
				}
				return
			}
			v.SetBytes(append(v.Bytes(), 'x'))
		case reflect.Pointer:
			walk(path, func(s *snapshot) reflect.Value { return at(s).Elem() })
			return
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Uint8, reflect.Uint32, reflect.Uint64:
			v.SetUint(v.Uint() + 1)
		default:
			t.Errorf("%s: a %s is not tried", path, v.Kind())
		}
		tried++
		if path != ".Version" && path != ".Checked" && digestOf(probe) == want { // they are of the file and of the comparing itself
			t.Errorf("%s changes and the digest does not", path)
		}
	}
	walk("", func(s *snapshot) reflect.Value { return reflect.ValueOf(s).Elem() })
	if tried < 50 {
		t.Errorf("only %d fields were tried", tried)
	}
}
