package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
)

func TestParseRoles(t *testing.T) {
	got, err := cluster.ParseRoles(" gateway, queue,,gateway")
	if d := cmp.Diff([]cluster.Role{cluster.Gateway, cluster.Queue}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := cluster.ParseRoles("gatway"); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestNamesThatBecomePaths(t *testing.T) {
	for name, want := range map[string]bool{"user001": true, "Ann-b.c_d": true, "": false, ".": false, "..": false, "a/b": false, "a b": false, "é": false, "-a": false, strings.Repeat("a", 65): false} {
		if got := cluster.User(name).Valid(); got != want {
			t.Errorf("user %q: %v", name, got)
		}
	}
	for ref, want := range map[string]bool{strings.Repeat("0f", 32): true, strings.Repeat("0F", 32): false, "..": false, "": false, strings.Repeat("g", 64): false} {
		if got := cluster.Ref(ref).Valid(); got != want {
			t.Errorf("ref %q: %v", ref, got)
		}
	}
}

func TestErrorsKeepTheirCodeThroughWrapping(t *testing.T) {
	err := fmt.Errorf("save: %w", cluster.Errorf(cluster.Quota, "full"))
	if !errors.Is(err, &cluster.Error{Code: cluster.Quota}) || errors.Is(err, &cluster.Error{Code: cluster.NotFound}) {
		t.Error("the code does not decide")
	}
	if got := cluster.MessageOf(err); got != "full" {
		t.Errorf("shown %q", got)
	}
	if got := cluster.MessageOf(errors.New("open /secret/path")); strings.Contains(got, "secret") {
		t.Errorf("an inner error is shown: %q", got)
	}
}

func FuzzCheckText(f *testing.F) {
	f.Add("name", []byte{1, 2}, []byte("raw"))
	f.Add("\xff", []byte{}, []byte{0xff})
	f.Add(strings.Repeat("long", 100), make([]byte, 70_000), []byte{0x9f, 0xff})
	f.Fuzz(func(t *testing.T, text string, blob, raw []byte) {
		type inner struct {
			Names map[string]int64 `cbor:"1,keyasint"`
			Blob  []byte           `cbor:"2,keyasint"`
			On    bool             `cbor:"3,keyasint"`
		}
		b, err := cluster.Marshal([]inner{{Blob: blob, On: true}, {Names: map[string]int64{text: -5}, Blob: blob}})
		if err != nil {
			t.Fatal(err)
		}
		if err := cluster.CheckText(b); (err == nil) != utf8.ValidString(text) {
			t.Errorf("text %q: %v", text, err)
		}
		_ = cluster.CheckText(raw) // whatever it is: no panic, no endless loop
	})
}
