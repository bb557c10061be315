package signin_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// shared is the people table as all gateways of a workshop see it, with a clock.
type shared struct {
	mu    sync.Mutex
	table *people.Table
	now   time.Time
	keys  []ed25519.PublicKey
	boss  string // the instructor's hash
	down  error  // what Propose returns, while set
}

func newShared(t testing.TB, names ...string) *shared {
	t.Helper()
	s := &shared{table: people.New(), now: time.Unix(1_790_000_000, 0), boss: cheap("boss")}
	for _, n := range names {
		s.password(t, n, "pw-"+n)
	}
	return s
}

func (s *shared) password(t testing.TB, name, password string) {
	t.Helper()
	s.do(t, &people.Put{Name: cluster.User(name), Hash: cheap(password)})
}

func (s *shared) do(t testing.TB, c cluster.Command) {
	t.Helper()
	if _, err := s.Propose(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func (s *shared) Propose(_ context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return cluster.Outcome{}, s.down
	}
	s.now = s.now.Add(time.Millisecond)
	for _, c := range cmds {
		mutate, err := s.table.Plan(c, s.now.UnixMilli())
		if err != nil {
			return cluster.Outcome{}, err
		}
		mutate()
	}
	return cluster.Outcome{}, nil
}

func (s *shared) people(f func(*people.Table)) { s.mu.Lock(); defer s.mu.Unlock(); f(s.table) }

func (s *shared) clock() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }

func (s *shared) later(d time.Duration) { s.mu.Lock(); defer s.mu.Unlock(); s.now = s.now.Add(d) }

// gateway opens a door of the workshop, with a key of its own.
func (s *shared) gateway(t testing.TB) *signin.SignIn {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.keys = append(s.keys, pub)
	s.mu.Unlock()
	return s.stranger(t, key)
}

// stranger is a door whose key nobody knows.
func (s *shared) stranger(t testing.TB, key ed25519.PrivateKey) *signin.SignIn {
	t.Helper()
	g, err := signin.New(signin.Config{
		Person: func(u cluster.User) (p people.Person, ok bool) {
			s.people(func(t *people.Table) { p, ok = t.Person(u) })
			return p, ok
		},
		Instructor: "admin", InstructorHash: func() string { return s.boss }, Logger: slog.New(slog.DiscardHandler), Now: s.clock,
		Key: key, Keys: func() []ed25519.PublicKey { s.mu.Lock(); defer s.mu.Unlock(); return s.keys }, People: s.people, Propose: s,
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// session signs somebody in at a gateway.
func session(t testing.TB, g *signin.SignIn, id signin.Identity) string {
	t.Helper()
	text, err := g.NewSession(id)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func whose(g *signin.SignIn, text string) (cluster.User, cluster.Code) {
	id, _, err := g.Session(text)
	return id.User, cluster.CodeOf(err)
}

func TestSessionIsGoodAtEveryGateway(t *testing.T) {
	w := newShared(t, "user001", "user002")
	a, b := w.gateway(t), w.gateway(t)
	text := session(t, a, signin.Identity{User: "user001"})
	for i, g := range []*signin.SignIn{a, b} {
		if u, code := whose(g, text); u != "user001" || code != "" {
			t.Errorf("gateway %d: %q, %q", i, u, code)
		}
	}
	teacher := session(t, a, signin.Identity{User: "admin", Instructor: true})
	if id, _, err := b.Session(teacher); err != nil || !id.Instructor {
		t.Errorf("the instructor at another gateway: %+v, %v", id, err)
	}
	if err := b.EndSession(t.Context(), text, false); err != nil {
		t.Fatal(err)
	}
	for i, g := range []*signin.SignIn{a, b} {
		if u, code := whose(g, text); u != "" || code != cluster.Unauthorized {
			t.Errorf("signed out, gateway %d: %q, %q", i, u, code)
		}
	}
	if u, _ := whose(b, teacher); u != "admin" {
		t.Error("somebody else was signed out too")
	}
}

// TestWhatVoidsASession is every way in which one stops to count before its time.
func TestWhatVoidsASession(t *testing.T) {
	for what, void := range map[string]func(*shared, *signin.SignIn, string){
		"a new password": func(w *shared, _ *signin.SignIn, _ string) { w.password(t, "user001", "new") },
		"being shut out": func(w *shared, _ *signin.SignIn, _ string) { w.do(t, &people.Disable{Name: "user001"}) },
		"being shut out and let in again": func(w *shared, _ *signin.SignIn, _ string) {
			w.do(t, &people.Disable{Name: "user001"})
			w.do(t, &people.Disable{Name: "user001", Undo: true})
		},
		"signing out everywhere": func(_ *shared, g *signin.SignIn, _ string) {
			if err := g.EndSession(t.Context(), session(t, g, signin.Identity{User: "user001"}), true); err != nil {
				t.Error(err)
			}
		},
		"time": func(w *shared, _ *signin.SignIn, _ string) { w.later(signin.SessionLife + time.Millisecond) },
		"a node that was forgotten": func(w *shared, _ *signin.SignIn, _ string) {
			w.keys = w.keys[1:]
			w.later(time.Minute)
		},
	} {
		w := newShared(t, "user001")
		a, b := w.gateway(t), w.gateway(t)
		text := session(t, a, signin.Identity{User: "user001"})
		if u, _ := whose(b, text); u != "user001" {
			t.Fatal("the session does not count at all")
		}
		void(w, a, text)
		if u, code := whose(b, text); u != "" || code != cluster.Unauthorized {
			t.Errorf("%s: %q, %q", what, u, code)
		}
	}
}

// TestSessionInUseGoesOn: after a day the browser gets a new text, and signing
// out ends the old one as well.
func TestSessionInUseGoesOn(t *testing.T) {
	w := newShared(t, "user001")
	a, b := w.gateway(t), w.gateway(t)
	first := session(t, a, signin.Identity{User: "user001"})
	text := first
	for day := range 30 {
		if _, again, err := b.Session(text); err != nil || again != "" {
			t.Fatalf("day %d, at once: %v, renewed %t", day, err, again != "")
		}
		w.later(25 * time.Hour)
		_, again, err := b.Session(text)
		if err != nil || again == "" || again == text {
			t.Fatalf("day %d: %v, renewed %t", day, err, again != "")
		}
		text = again
	}
	if u, _ := whose(a, first); u != "" {
		t.Error("the first text counts after a month")
	}
	_, _, err := a.Session(text)
	if err != nil {
		t.Fatal(err)
	}
	w.later(25 * time.Hour)
	_, newest, err := a.Session(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.EndSession(t.Context(), text, false); err != nil {
		t.Fatal(err)
	}
	w.later(6 * 24 * time.Hour)
	for i, s := range []string{text, newest} {
		if u, _ := whose(b, s); u != "" {
			t.Errorf("text %d counts after signing out", i)
		}
	}
}

// TestLinkSignsInOnce asks ten gateways at once.
func TestLinkSignsInOnce(t *testing.T) {
	w := newShared(t, "user001")
	var gates []*signin.SignIn
	for range 10 {
		gates = append(gates, w.gateway(t))
	}
	text, until, err := gates[0].NewLink(t.Context(), "user001", time.Hour)
	if err != nil || until.Sub(w.clock()) < 59*time.Minute {
		t.Fatal(until, err)
	}
	for range 3 { // what only looks does not use it up
		if u, err := gates[1].LinkFor(text); u != "user001" || err != nil {
			t.Fatal(u, err)
		}
	}
	var in, out atomic.Int64
	var wg sync.WaitGroup
	for _, g := range gates {
		wg.Go(func() {
			switch id, err := g.Redeem(t.Context(), text); {
			case err == nil && id.User == "user001" && !id.Instructor:
				in.Add(1)
			case cluster.CodeOf(err) == cluster.Unauthorized:
				out.Add(1)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 || out.Load() != 9 {
		t.Errorf("%d were let in and %d refused", in.Load(), out.Load())
	}
	if _, err := gates[1].LinkFor(text); cluster.CodeOf(err) != cluster.Unauthorized {
		t.Errorf("a used link: %v", err)
	}
}

func TestLinksThatDoNotCount(t *testing.T) {
	w := newShared(t, "user001", "user002")
	a, b := w.gateway(t), w.gateway(t)
	link := func(u cluster.User) string {
		text, _, err := a.NewLink(t.Context(), u, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	older := link("user001")
	newer := link("user001")
	if _, err := b.Redeem(t.Context(), older); cluster.CodeOf(err) != cluster.Unauthorized {
		t.Errorf("an older link: %v", err)
	}
	w.password(t, "user001", "new")
	if _, err := b.Redeem(t.Context(), newer); cluster.CodeOf(err) != cluster.Unauthorized {
		t.Errorf("a link of before the new password: %v", err)
	}
	late := link("user002")
	w.later(time.Hour)
	if _, err := b.Redeem(t.Context(), late); cluster.CodeOf(err) != cluster.Unauthorized {
		t.Errorf("a link that is over: %v", err)
	}
	kept := link("user002")
	w.down = cluster.Errorf(cluster.NoLeader, "there is no leader")
	if _, err := b.Redeem(t.Context(), kept); cluster.CodeOf(err) != cluster.NoLeader {
		t.Errorf("without a leader: %v", err)
	}
	w.down = nil
	if _, err := b.Redeem(t.Context(), kept); err != nil {
		t.Errorf("a link that could not be used before: %v", err)
	}
	for _, u := range []cluster.User{"admin", "nobody"} {
		if _, _, err := a.NewLink(t.Context(), u, time.Hour); err == nil {
			t.Errorf("a link for %s", u)
		}
	}
	if _, _, err := a.NewLink(t.Context(), "user001", 365*24*time.Hour); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("a link for a year: %v", err)
	}
}

func TestTokenOfAProgram(t *testing.T) {
	w := newShared(t, "user001")
	a, b := w.gateway(t), w.gateway(t)
	text, _, err := a.NewToken(t.Context(), "user001", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"Bearer " + text, "bearer  " + text} {
		if id, err := b.Bearer(header); err != nil || id.User != "user001" {
			t.Errorf("%.8q: %+v, %v", header, id, err)
		}
	}
	var rows []people.Pass
	w.people(func(t *people.Table) { rows = t.Tokens("user001") })
	w.do(t, &people.EndPass{Name: "user001", Pass: rows[0]})
	if _, err := b.Bearer("Bearer " + text); cluster.CodeOf(err) != cluster.Unauthorized {
		t.Errorf("an ended token: %v", err)
	}
}

// TestPassesAreNotInterchangeable: each kind opens its own way in only, and what
// no node of the workshop signed opens none.
func TestPassesAreNotInterchangeable(t *testing.T) {
	w := newShared(t, "user001", "user002")
	g := w.gateway(t)
	_, foreign, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	link, _, err := g.NewLink(t.Context(), "user001", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := g.NewToken(t.Context(), "user001", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own := session(t, g, signin.Identity{User: "user001"})
	forged := session(t, w.stranger(t, foreign), signin.Identity{User: "user001"})
	for what, ok := range map[string]bool{
		"session as session": got(g.Session(own)) == nil, "link as session": got(g.Session(link)) != nil, "token as session": got(g.Session(token)) != nil,
		"session as token": got2(g.Bearer("Bearer "+own)) != nil, "link as token": got2(g.Bearer("Bearer "+link)) != nil, "token as token": got2(g.Bearer("Bearer "+token)) == nil,
		"session as link": got2(g.Redeem(t.Context(), own)) != nil, "token as link": got2(g.Redeem(t.Context(), token)) != nil,
		"a stranger's session": got(g.Session(forged)) != nil, "nothing": got(g.Session("")) != nil,
		"a token in another scheme": got2(g.Bearer("Basic "+token)) != nil, "no token": got2(g.Bearer("Bearer ")) != nil,
	} {
		if !ok {
			t.Error(what)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(own)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw { // any bit of it
		raw[i] ^= 1
		if u, _ := whose(g, base64.RawURLEncoding.EncodeToString(raw)); u != "" {
			t.Fatalf("byte %d may be changed: %s is let in", i, u)
		}
		raw[i] ^= 1
	}
}

func got(_ signin.Identity, _ string, err error) error { return err }

func got2(_ signin.Identity, err error) error { return err }

// TestNoPassIsRefusedByADoorThatIsOpening: a key that another gateway entered a
// moment ago may not be known yet, and a page that is told 401 is sent away.
func TestNoPassIsRefusedByADoorThatIsOpening(t *testing.T) {
	w := newShared(t)
	a := w.gateway(t)
	opening := true
	b, err := signin.New(signin.Config{
		Person: func(u cluster.User) (p people.Person, ok bool) {
			w.people(func(t *people.Table) { p, ok = t.Person(u) })
			return p, ok
		},
		Logger: slog.New(slog.DiscardHandler), Now: w.clock, Opening: func() bool { return opening },
		Keys: func() []ed25519.PublicKey { return w.keys }, People: w.people, Propose: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.password(t, "user001", "x")
	text := session(t, a, signin.Identity{User: "user001"})
	keys := w.keys
	w.keys = nil
	if _, code := whose(b, text); code != cluster.Unavailable {
		t.Errorf("at a door that is opening: %q", code)
	}
	w.keys = keys
	if u, code := whose(b, text); u != "user001" || code != "" {
		t.Errorf("known meanwhile: %q, %q", u, code)
	}
	opening = false
	if _, code := whose(b, "nonsense"); code != cluster.Unauthorized {
		t.Errorf("at an open door: %q", code)
	}
}

func FuzzPass(f *testing.F) {
	w := newShared(f, "user001")
	g := w.gateway(f)
	own := session(f, g, signin.Identity{User: "user001"})
	for _, s := range []string{own, own[:100], "", "====", own + own, base64.RawURLEncoding.EncodeToString(make([]byte, 200))} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if u, _ := whose(g, text); u != "" && text != own {
			t.Errorf("%q lets %s in", text, u)
		}
		if _, err := g.Redeem(t.Context(), text); err == nil {
			t.Errorf("%q signs in", text)
		}
	})
}

func BenchmarkKnownSession(b *testing.B) {
	w := newShared(b, "user001")
	g := w.gateway(b)
	text := session(b, g, signin.Identity{User: "user001"})
	b.ReportAllocs()
	for b.Loop() {
		if u, _ := whose(g, text); u == "" {
			b.Fatal(fmt.Sprint("not known"))
		}
	}
}
