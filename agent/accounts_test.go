package agent_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/agent"
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// oneNode commits into a real machine, without a log.
type oneNode struct {
	mu       sync.Mutex
	machine  *state.Machine
	index    uint64
	proposed int
}

func newOneNode() *oneNode { return &oneNode{machine: state.New(slog.New(slog.DiscardHandler))} }

func (o *oneNode) Propose(_ context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var raw [][]byte
	for _, c := range cmds {
		b, err := state.Encode(c, "", "")
		if err != nil {
			return cluster.Outcome{}, err
		}
		raw = append(raw, b)
	}
	o.index++
	for _, c := range cmds {
		if _, barrier := c.(*state.Noop); !barrier {
			o.proposed++
		}
	}
	answers := o.machine.Apply(o.index, int64(o.index), raw)
	body, err := state.DecodeAnswer(answers[len(answers)-1])
	return cluster.Outcome{Index: o.index, Body: body}, err
}

func (o *oneNode) hash(t *testing.T, u cluster.User) string {
	t.Helper()
	var p people.Person
	var ok bool
	o.machine.People(func(t *people.Table) { p, ok = t.Person(u) })
	if !ok {
		t.Fatalf("there is no account %s", u)
	}
	return p.Hash
}

func (o *oneNode) signsIn(t *testing.T, u cluster.User, password string) bool {
	t.Helper()
	return signin.Verify(o.hash(t, u), password)
}

func enter(t *testing.T, o *oneNode, cfg agent.Config) map[cluster.User]agent.Secret {
	t.Helper()
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	if cfg.AdminUsername == "" {
		cfg.AdminUsername = "admin"
	}
	made, err := agent.Enter(t.Context(), &cfg, o, o.machine)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range made {
		if strings.Contains(log.String(), string(p)) {
			t.Error("a password stands in the log")
		}
	}
	return made
}

func TestAccountsAreMadeOnce(t *testing.T) {
	o, cfg := newOneNode(), agent.Config{StateDir: t.TempDir(), Users: 3, UserPrefix: "film"}
	made := enter(t, o, cfg)
	if len(made) != 4 || made["admin"] == "" {
		t.Fatalf("made %d accounts", len(made))
	}
	for _, u := range []cluster.User{"film001", "film002", "film003"} {
		if !o.signsIn(t, u, string(made[u])) {
			t.Errorf("%s cannot sign in with the password that was made", u)
		}
	}
	path := filepath.Join(cfg.StateDir, "credentials")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("credentials has mode %o, want 600", got)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := o.proposed
	again := enter(t, o, cfg)
	second, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) || again["film001"] != made["film001"] || o.proposed != before {
		t.Errorf("a restart changed the accounts (%d commands)", o.proposed-before)
	}
	cfg.Users = 4
	more := enter(t, o, cfg)
	if len(more) != 5 || !o.signsIn(t, "film004", string(more["film004"])) || more["film001"] != made["film001"] {
		t.Error("one more person was not added to those that are there")
	}
}

func TestGivenPasswordsAreEnteredWhenTheyChange(t *testing.T) {
	o, cfg := newOneNode(), agent.Config{StateDir: t.TempDir(), Users: 20, UserPrefix: "user", AdminPassword: "x"}
	cfg.Participants = map[cluster.User]agent.Secret{"user001": "one", "user002": "two"}
	if made := enter(t, o, cfg); len(made) != 0 {
		t.Errorf("made %d accounts although some were given", len(made))
	}
	if !o.signsIn(t, "user001", "one") || !o.signsIn(t, "user002", "two") {
		t.Fatal("the given passwords do not open")
	}
	before := o.proposed
	enter(t, o, cfg)
	if o.proposed != before {
		t.Error("a restart entered the same passwords again")
	}
	// Somebody sets another password by hand: a restart must not undo it.
	byHand, err := signin.HashPassword("by-hand")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Propose(t.Context(), &people.Put{Name: "user001", Hash: byHand}); err != nil {
		t.Fatal(err)
	}
	enter(t, o, cfg)
	if !o.signsIn(t, "user001", "by-hand") {
		t.Error("a restart undid a password that was set by hand")
	}
	cfg.Participants["user001"] = "three"
	enter(t, o, cfg)
	if !o.signsIn(t, "user001", "three") || !o.signsIn(t, "user002", "two") {
		t.Error("a changed given password was not entered")
	}
}

func TestHTPasswdFile(t *testing.T) {
	o := newOneNode()
	bcrypt, err := signin.HashPassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{StateDir: t.TempDir(), AdminPassword: "x", HTPasswd: file(t, "# old\nuser001:"+bcrypt+"\nuser002:$apr1$ab$CNo5Ldbqc5SZJk9pLfZwF.\n")}
	cfg.Participants = map[cluster.User]agent.Secret{"user001": "from-env"}
	enter(t, o, cfg)
	if !o.signsIn(t, "user001", "from-env") {
		t.Error("the environment does not win over the file")
	}
	if got := o.hash(t, "user002"); got != "$apr1$ab$CNo5Ldbqc5SZJk9pLfZwF." {
		t.Errorf("user002's hash is %q", got)
	}
}

func TestAccountsThatCannotBe(t *testing.T) {
	hash, err := signin.HashPassword("topsecret")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, want string
	}{
		{"plain password", "user001:topsecret\n", "line 1"},
		{"path", "\n../x:$2y$10$topsecret\n", "line 2"},
		{"instructor", "admin:" + hash + "\n", "instructor's name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOneNode()
			cfg := agent.Config{StateDir: t.TempDir(), AdminUsername: "admin", HTPasswd: file(t, c.file), Logger: slog.New(slog.DiscardHandler)}
			_, err := agent.Enter(t.Context(), &cfg, o, o.machine)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("error = %v", err)
			}
		})
	}
}
