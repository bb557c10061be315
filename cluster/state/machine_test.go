package state_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
)

var update = flag.Bool("update", false, "add new commands to testdata/commands.txt")

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

var ref = cluster.Ref(strings.Repeat("ab", 32))

// samples holds one filled value of every command.
func samples() []cluster.Command {
	id := jobs.ID{User: "user001", Prompt: "p1"}
	lease := jobs.Lease{Job: id, Worker: "n/0", Epoch: 1}
	return []cluster.Command{
		&state.Noop{}, &state.Acted{What: "asked worker n/0 to restart"},
		&state.PutNode{Node: state.Node{Member: cluster.Member{ID: "n1", Name: "mello", Roles: []cluster.Role{cluster.Queue}, Version: "0.3", Level: 1}, Incarnation: "abcd", Vote: "auto", Steady: true}},
		&state.SetLevel{Level: 1},
		&state.Checkpoint{Boundary: 1, Digest: 1},
		&state.DrainNode{ID: "n1"},
		&state.SetClass{Mode: "sprint", N: 3, Until: 1 << 50},
		&state.SetQuota{Quota: state.Quota{User: "user001", Queued: 9, Running: 1, Minutes: 30}},
		&state.SetDisk{User: "user001", Bytes: 20_000_000_000},
		&files.Remove{User: "user001", Files: []files.Picked{{Place: files.Place{Area: files.Output, Name: "a.png"}, Ref: ref}}},
		&state.SetBoost{User: "user001", Until: 1 << 50},
		&jobs.Now{IDs: []jobs.ID{id}},
		&jobs.Preempt{Lease: lease, Reason: "demo", Again: true},
		&state.SetMode{Mode: "fifo"},
		&state.SetPause{Scope: state.PauseAll, Why: "lunch"},
		&state.SetInstructor{Hash: "$2a$10$y", IfAbsent: true},
		&people.Put{Name: "user001", Hash: "$2a$10$x", IfAbsent: true},
		&people.Disable{Name: "user001", Undo: true},
		&people.Visit{Name: "user001"},
		&people.Give{Name: "user001", Pass: people.Pass{ID: "l1", Kind: people.Link, Until: 1 << 50}},
		&people.Redeem{Name: "user001", ID: "l1"},
		&people.EndPass{Name: "user001", Pass: people.Pass{ID: "s1", Kind: people.Session, Until: 1 << 50}, All: true},
		&files.PutDoc{User: "user001", Path: "workflows/a.json", Data: []byte("{}")},
		&files.MoveDoc{User: "user001", From: "workflows/a.json", To: "workflows/b.json"},
		&files.DeleteDoc{User: "user001", Path: "workflows/b.json"},
		&files.PutSettings{User: "user001", Settings: []files.Setting{{Key: "a", Value: []byte("1")}}},
		&files.PutInput{User: "user001", Place: files.Place{Area: files.Input, Name: "a.png"}, Ref: ref, Size: 3},
		&jobs.Submit{ID: id, ClientID: "c", BodyHash: "h", Body: []byte("body"), Classes: []string{"SaveImage"}, Priority: jobs.Normal},
		&jobs.Submit{ID: id, BodyHash: "h", Body: []byte("body"), Priority: jobs.Normal, Models: []string{"ltx-2.safetensors"}, Form: "0011223344556677"},
		&jobs.Assign{Lease: lease},
		&jobs.Started{Lease: lease},
		&files.PutOutputs{User: "user001", Prompt: "p1", Worker: "n/0", Epoch: 1, Outputs: []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: "ComfyUI_00007_.png", Ref: ref, Size: 3}}},
		&jobs.GpuDone{Lease: lease},
		&jobs.Finish{Lease: lease, State: jobs.Done, History: ref, Outputs: 1},
		&jobs.Forget{User: "user001", IDs: []string{"p1"}},
		&jobs.Requeue{Lease: lease, Reason: "gone"},
		&jobs.Cancel{IDs: []jobs.ID{id}},
		&jobs.Hold{Lease: lease, Reason: "sign in"},
		&jobs.Release{User: "user001", Secrets: "n"},
		&jobs.Front{IDs: []jobs.ID{id}, User: "user001"},
		&jobs.Adopt{Rows: []jobs.Job{{ID: jobs.ID{User: "user001", Prompt: "p2"}, State: jobs.Pending, Body: []byte("body"), Epoch: 2}}, Reason: "salvaged"},
		&models.PutWorker{Worker: models.Worker{ID: "n/0", Node: "n", Caps: ref, CapsSize: 1}},
		&models.ForgetWorker{ID: "n/0"},
		&files.Adopt{User: "user001", Files: []files.File{{Place: files.Place{Area: files.Input, Name: "b.png"}, Ref: ref, Size: 3}}},
		&state.LeaveNode{ID: "n1"},
		&files.Expire{User: "user001", Before: 7},
	}
}

func encode(t *testing.T, c cluster.Command, id string) []byte {
	t.Helper()
	b, err := state.Encode(c, id, "test")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// apply runs one command and returns its answer.
func apply(t *testing.T, m *state.Machine, c cluster.Command, id string) ([]byte, error) {
	t.Helper()
	index, now := m.Applied()
	return state.DecodeAnswer(m.Apply(index+1, now+1000, [][]byte{encode(t, c, id)})[0])
}

func snapshot(t *testing.T, m *state.Machine) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := m.Snapshot()(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestEveryCommandHasASample(t *testing.T) {
	have := map[cluster.Kind]bool{}
	for _, c := range samples() {
		have[c.Kind()] = true
	}
	for _, c := range state.Commands() {
		if !have[c.Kind()] {
			t.Errorf("no sample of command kind %d (%T)", c.Kind(), c)
		}
	}
}

// TestReleasedCommandsStillApply decodes every command that was ever written to
// a log. A line may be added to testdata/commands.txt, never changed.
func TestReleasedCommandsStillApply(t *testing.T) {
	const path = "testdata/commands.txt"
	raw, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	golden := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			t.Fatalf("bad line %q", line)
		}
		golden[f[0]+" "+f[1]] = true
		b, err := hex.DecodeString(f[1])
		if err != nil {
			t.Fatal(err)
		}
		m := state.New(quiet())
		m.Apply(1, 1, [][]byte{b})
		if err := m.Halted(); err != nil {
			t.Errorf("%s: a released command is not understood: %v", f[0], err)
		}
	}
	var missing strings.Builder
	for _, c := range samples() {
		line := fmt.Sprintf("%T %s", c, hex.EncodeToString(encode(t, c, "id")))
		if line = strings.TrimPrefix(line, "*"); !golden[line] {
			missing.WriteString(line + "\n")
		}
	}
	if missing.Len() == 0 {
		return
	}
	if !*update {
		t.Fatalf("commands are encoded otherwise than released; if they are new, add them with -update:\n%s", missing.String())
	}
	if err := os.WriteFile(path, append(raw, missing.String()...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestStateHoldsNoFloats walks every type that is stored: arm64 and amd64 round
// floats differently, and a time.Time carries a place and a clock reading.
func TestStateHoldsNoFloats(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128, reflect.Interface, reflect.Func, reflect.Chan:
			t.Errorf("%s is a %s", path, typ)
		case reflect.Map:
			t.Errorf("%s is a map: its order differs from replica to replica", path)
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(typ.Elem(), path+"[]")
		case reflect.Struct:
			if typ.PkgPath() == "time" {
				t.Errorf("%s is a %s", path, typ)
			}
			for i := range typ.NumField() {
				walk(typ.Field(i).Type, path+"."+typ.Field(i).Name)
			}
		}
	}
	for _, c := range state.Commands() {
		walk(reflect.TypeOf(c).Elem(), reflect.TypeOf(c).Elem().String())
	}
	for _, v := range []any{jobs.Snapshot{}, files.Snapshot{}, people.Snapshot{}, models.Snapshot{}, state.Audit{}, state.Node{}, state.Settings{}} {
		walk(reflect.TypeOf(v), reflect.TypeOf(v).String())
	}
}

func TestSameEntriesGiveSameBytes(t *testing.T) {
	a, b := state.New(quiet()), state.New(quiet())
	for i, c := range samples() {
		raw := [][]byte{encode(t, c, fmt.Sprint("id", i))}
		ansA, ansB := a.Apply(uint64(i+1), int64(i), raw), b.Apply(uint64(i+1), int64(i), raw)
		if !bytes.Equal(ansA[0], ansB[0]) {
			t.Errorf("%T: answers differ", c)
		}
	}
	if !bytes.Equal(snapshot(t, a), snapshot(t, b)) {
		t.Error("two replicas of the same entries differ")
	}
	c := state.New(quiet())
	if err := c.Restore(bytes.NewReader(snapshot(t, a))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshot(t, a), snapshot(t, c)) {
		t.Error("a restored snapshot differs from its source")
	}
}

func TestRepeatedCommandIsAnsweredNotApplied(t *testing.T) {
	m := state.New(quiet())
	put := &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "a.png"}, Ref: ref, Size: 1}
	first, err := apply(t, m, put, "same")
	if err != nil {
		t.Fatal(err)
	}
	other := *put
	other.Ref = cluster.Ref(strings.Repeat("cd", 32))
	again, err := apply(t, m, &other, "same")
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the repeated id gave %x, %v; want the first answer %x", again, err, first)
	}
	m.Files(func(f *files.Table) {
		if n := len(f.Files("ann", files.Input)); n != 1 {
			t.Errorf("%d files, want 1", n)
		}
	})
}

func TestUnknownKindStopsApplying(t *testing.T) {
	m := state.New(quiet())
	if _, err := apply(t, m, &people.Put{Name: "ann", Hash: "h"}, ""); err != nil {
		t.Fatal(err)
	}
	raw, err := cluster.Marshal(state.Envelope{Version: 1, Kind: 9999})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.DecodeAnswer(m.Apply(2, 2, [][]byte{raw})[0]); cluster.CodeOf(err) != cluster.Unavailable {
		t.Errorf("got %v", err)
	}
	if m.Halted() == nil {
		t.Fatal("it went on")
	}
	if _, err := apply(t, m, &people.Put{Name: "bob", Hash: "h"}, ""); err == nil {
		t.Error("a command was applied after one that is not understood")
	}
	m.People(func(p *people.Table) {
		if got := len(p.People()); got != 1 {
			t.Errorf("%d people, want the one from before", got)
		}
	})
}

// A name that is not UTF-8 once stopped every replica for good.
func TestBrokenTextIsRefusedAndNeverStopsApplying(t *testing.T) {
	bad := &files.PutSettings{User: "ann", Settings: []files.Setting{{Key: "\xff", Value: []byte("1")}}}
	if _, err := state.Encode(bad, "id", ""); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("proposed: %v", err)
	}
	body, err := cluster.Marshal(bad)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := cluster.Marshal(state.Envelope{Version: 1, Kind: bad.Kind(), Body: body})
	if err != nil {
		t.Fatal(err)
	}
	m := state.New(quiet())
	m.Apply(1, 1, [][]byte{raw})
	if err := m.Halted(); err != nil {
		t.Errorf("one that got into the log stops the machine: %v", err)
	}
	if err := state.New(quiet()).Restore(bytes.NewReader(snapshot(t, m))); err != nil {
		t.Errorf("and its snapshot: %v", err)
	}
}

func TestOnlyTheLeaseHolderEntersOutputs(t *testing.T) {
	m := state.New(quiet())
	id := jobs.ID{User: "ann", Prompt: "p"}
	if _, err := apply(t, m, &jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b")}, ""); err != nil {
		t.Fatal(err)
	}
	out := &files.PutOutputs{User: "ann", Prompt: "p", Worker: "w", Epoch: 1, Outputs: []files.NewOutput{{Item: "1", Area: files.Output, Name: "x_00009_.png", Ref: ref}}}
	if _, err := apply(t, m, out, ""); cluster.CodeOf(err) != cluster.Stale {
		t.Errorf("before any lease: %v", err)
	}
	if _, err := apply(t, m, &jobs.Assign{Lease: jobs.Lease{Job: id, Worker: "w", Epoch: 1}}, ""); err != nil {
		t.Fatal(err)
	}
	body, err := apply(t, m, out, "")
	if err != nil {
		t.Fatal(err)
	}
	var places []files.Place
	if err := cluster.Unmarshal(body, &places); err != nil {
		t.Fatal(err)
	}
	if len(places) != 1 || places[0].Name != "x_00001_.png" {
		t.Errorf("got %+v, want the user's first number", places)
	}
	thief := *out
	thief.User = "bob"
	if _, err := apply(t, m, &thief, ""); cluster.CodeOf(err) != cluster.NotFound {
		t.Errorf("outputs for somebody else: %v", err)
	}
}

func TestWatcherGetsKeysOnceAndNeverBlocksApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := state.New(quiet())
		w := m.Watch()
		defer w.Close()
		for i := range 100 {
			id := jobs.ID{User: "ann", Prompt: fmt.Sprint("p", i%3)}
			if _, err := apply(t, m, &jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b")}, ""); err != nil {
				t.Fatal(err)
			}
		}
		c, err := w.Next(t.Context())
		if err != nil || len(c.Jobs) != 3 {
			t.Fatalf("got %d keys, %v; want the three that moved", len(c.Jobs), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := w.Next(ctx); done <- err }()
		synctest.Wait()
		select {
		case <-done:
			t.Error("a second change came from nowhere")
		default:
		}
		cancel()
		if err := <-done; err == nil {
			t.Error("Next outlived its context")
		}
	})
}
