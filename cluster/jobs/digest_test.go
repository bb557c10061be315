package jobs_test

import (
	"reflect"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// A field that the digest forgets is one in which replicas may differ unseen:
// each field of each stored type is changed alone and must be noticed. Of Body
// only its length counts: BodyHash stands for it.
func TestDigestNoticesEveryField(t *testing.T) {
	full := func() jobs.Snapshot {
		return jobs.Snapshot{Seq: 5, Rows: []jobs.Job{{
			ID: jobs.ID{User: "ann", Prompt: "p"}, Seq: 3, Order: 3, Number: 1, State: jobs.Pending, Body: []byte("b"),
			Inputs: []jobs.Input{{Value: "a"}}, Classes: []string{"c"}, Failure: &jobs.Failure{Type: "x"}, Tried: []string{"w"},
			Past: []jobs.Attempt{{Epoch: 1, Worker: "w"}}, NoRoom: []jobs.Memory{{Device: "d", VRAM: 1}}, Models: []string{"m"}, Form: "f",
		}}, Accounts: []jobs.Account{{User: "ann", Number: 9, Served: []jobs.Minute{{At: 1, N: 1}}, Used: 3, UsedAt: 1}}, Orphans: []jobs.Orphan{{Job: jobs.ID{User: "ann", Prompt: "p"}, Epoch: 1, Worker: "w"}}}
	}
	sum := func(s jobs.Snapshot) uint64 {
		var d cluster.Digest
		jobs.Restore(s).Digest(&d)
		return d.Sum()
	}
	want := sum(full())
	if want != sum(full()) {
		t.Fatal("equal tables have different digests")
	}
	var walk func(path string, at func(*jobs.Snapshot) reflect.Value)
	walk = func(path string, at func(*jobs.Snapshot) reflect.Value) {
		probe := full()
		v := at(&probe)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, func(s *jobs.Snapshot) reflect.Value { return at(s).Field(i) })
			}
			return
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				v.SetBytes(append(v.Bytes(), 'x'))
				break
			}
			walk(path+"[0]", func(s *jobs.Snapshot) reflect.Value { return at(s).Index(0) })
			return
		case reflect.Pointer:
			walk(path, func(s *jobs.Snapshot) reflect.Value { return at(s).Elem() })
			return
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Uint8, reflect.Uint64:
			v.SetUint(v.Uint() + 1)
		default:
			t.Errorf("%s: a %s is not tried", path, v.Kind())
		}
		if sum(probe) == want {
			t.Errorf("%s changes and the digest does not", path)
		}
	}
	walk("", func(s *jobs.Snapshot) reflect.Value { return reflect.ValueOf(s).Elem() })
}
