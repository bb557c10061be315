package models_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/models"
)

func TestWorkerKeepsItsLastWord(t *testing.T) {
	tab := models.New()
	put := func(caps string, now int64) error {
		mutate, err := tab.Plan(&models.PutWorker{Worker: models.Worker{ID: "n/0", Node: "n", Caps: cluster.Ref(strings.Repeat(caps, 64))}}, now)
		if err == nil {
			mutate()
		}
		return err
	}
	for i, caps := range []string{"a", "b", "b"} {
		if err := put(caps, int64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("x", 9); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("capabilities that are no digest: %v", err)
	}
	want := []models.Worker{{ID: "n/0", Node: "n", Caps: cluster.Ref(strings.Repeat("b", 64)), Changed: 2}}
	if d := cmp.Diff(want, models.Restore(tab.Snapshot()).Workers()); d != "" {
		t.Error(d)
	}
	if _, err := tab.Plan(&models.ForgetWorker{ID: "n/1"}, 4); cluster.CodeOf(err) != cluster.NotFound {
		t.Errorf("forgetting nobody: %v", err)
	}
}
