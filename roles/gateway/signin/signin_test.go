package signin_test

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// book is a people table of test users with a cheap hash.
type book struct {
	mu   sync.Mutex
	rows map[cluster.User]people.Person
}

func newBook(t testing.TB, names ...string) *book {
	t.Helper()
	b := &book{rows: map[cluster.User]people.Person{}}
	for _, n := range names {
		b.set(t, n, "pw-"+n)
	}
	return b
}

func (b *book) set(t testing.TB, name, password string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows[cluster.User(name)] = people.Person{Name: cluster.User(name), Hash: cheap(password)}
}

func (b *book) person(u cluster.User) (people.Person, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.rows[u]
	return p, ok
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// cheap is a hash of a form that the door takes and that costs nothing: what
// these tests look at is how often it hashes.
func cheap(password string) string {
	sum := sha1.Sum([]byte(password))
	return "{SHA}" + base64.StdEncoding.EncodeToString(sum[:])
}

// counted wraps Verify and counts how often a password was hashed. The one hash
// that is not the test's own, that of unknown names, is not worked through.
func counted(n *atomic.Int64) func(string, string) bool {
	return func(hash, password string) bool {
		n.Add(1)
		return strings.HasPrefix(hash, "{SHA}") && signin.Verify(hash, password)
	}
}

func build(t testing.TB, b *book, n *atomic.Int64, now func() time.Time) *signin.SignIn {
	t.Helper()
	hash := cheap("boss")
	s, err := signin.New(signin.Config{Person: b.person, Instructor: "admin", InstructorHash: func() string { return hash }, Logger: slog.New(slog.DiscardHandler), Now: now, Verify: counted(n)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhoGetsIn(t *testing.T) {
	b := newBook(t, "user001")
	var n atomic.Int64
	s := build(t, b, &n, nil)
	for _, c := range []struct {
		header string
		want   cluster.Code
		who    signin.Identity
	}{
		{basic("user001", "pw-user001"), "", signin.Identity{User: "user001"}},
		{basic("admin", "boss"), "", signin.Identity{User: "admin", Instructor: true}},
		{basic("user001", "wrong"), cluster.Unauthorized, signin.Identity{}},
		{basic("user001", ""), cluster.Unauthorized, signin.Identity{}},
		{basic("nobody", "pw-user001"), cluster.Unauthorized, signin.Identity{}},
		{basic("", ""), cluster.Unauthorized, signin.Identity{}},
		{"", cluster.Unauthorized, signin.Identity{}},
		{"Basic !!!", cluster.Unauthorized, signin.Identity{}},
		{"Bearer abc", cluster.Unauthorized, signin.Identity{}},
	} {
		got, err := s.Basic(t.Context(), c.header, "10.0.0.1")
		if got.User != c.who.User || got.Instructor != c.who.Instructor || cluster.CodeOf(err) != c.want {
			t.Errorf("%q: %+v, %v", c.header, got, err)
		}
	}
}

func TestAClassLoadingHashesEachPasswordOnce(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("user%03d", i+1))
	}
	b := newBook(t, names...)
	var n atomic.Int64
	s := build(t, b, &n, nil)
	var wg sync.WaitGroup
	var refused atomic.Int64
	for _, name := range names {
		for range 60 {
			wg.Go(func() {
				if _, err := s.Basic(t.Context(), basic(name, "pw-"+name), "10.0.0.1"); err != nil {
					refused.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if refused.Load() != 0 || n.Load() != 20 {
		t.Errorf("%d refused, %d hashes for 1200 requests of 20 users", refused.Load(), n.Load())
	}
}

func TestShutOutAndNewPasswordAreNoticedAtOnce(t *testing.T) {
	b := newBook(t, "user001")
	var n atomic.Int64
	s := build(t, b, &n, nil)
	in := func(pw string) cluster.Code {
		_, err := s.Basic(t.Context(), basic("user001", pw), "10.0.0.1")
		return cluster.CodeOf(err)
	}
	if got := in("pw-user001"); got != "" {
		t.Fatal(got)
	}
	p, _ := b.person("user001")
	p.Disabled = true
	b.rows["user001"] = p
	if got := in("pw-user001"); got != cluster.Unauthorized {
		t.Errorf("shut out, and got %q", got)
	}
	b.set(t, "user001", "new")
	if got := in("pw-user001"); got != cluster.Unauthorized {
		t.Errorf("the old password still opens: %q", got)
	}
	if got := in("new"); got != "" {
		t.Errorf("the new one does not: %q", got)
	}
}

func TestFloodOfWrongPasswords(t *testing.T) {
	b := newBook(t, "user001", "user002")
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, b, &n, func() time.Time { return now })
	try := func(user, pw, from string) cluster.Code {
		_, err := s.Basic(t.Context(), basic(user, pw), from)
		return cluster.CodeOf(err)
	}
	if got := try("user001", "pw-user001", "home"); got != "" {
		t.Fatal(got)
	}
	quota := 0
	for i := range 100 {
		if try("user001", fmt.Sprint("guess", i), "attacker") == cluster.Quota {
			quota++
		}
	}
	if quota < 80 || n.Load() > 25 {
		t.Errorf("%d of 100 guesses were turned away, %d were hashed", quota, n.Load())
	}
	for _, c := range [][3]string{{"user001", "pw-user001", "attacker"}, {"user001", "pw-user001", "elsewhere"}, {"user002", "pw-user002", "attacker"}} {
		if got := try(c[0], c[1], c[2]); got != "" {
			t.Errorf("%v was locked out: %q", c, got)
		}
	}
	now = now.Add(time.Minute)
	if got := try("user001", "another guess", "attacker"); got != cluster.Unauthorized {
		t.Errorf("after a minute: %q", got)
	}
}

func TestHtpasswdOfTheOldSystem(t *testing.T) {
	bc, err := signin.HashPassword("one")
	if cost, e := bcrypt.Cost([]byte(bc)); err != nil || e != nil || cost != bcrypt.DefaultCost {
		t.Fatalf("cost %d, %v, %v", cost, err, e)
	}
	puts, err := signin.ReadHtpasswd(strings.NewReader("# class of May\nuser001:" + bc + "\n\nuser002:{SHA}BpfvR7/9NNEBKWvcCGJN7nPd0EI=\n"))
	if err != nil || len(puts) != 2 || puts[0].Hash != bc || puts[1].Name != "user002" {
		t.Fatalf("%+v, %v", puts, err)
	}
	_, err = signin.ReadHtpasswd(strings.NewReader("user001:plaintext-secret\n"))
	if cluster.CodeOf(err) != cluster.Invalid || strings.Contains(err.Error(), "plaintext") {
		t.Errorf("a line without a hash: %v", err)
	}
	if _, err := signin.HashPassword(strings.Repeat("x", 73)); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("a password that bcrypt would cut: %v", err)
	}
	if a, b := signin.GeneratePassword(), signin.GeneratePassword(); a == b || len(a) != 24 {
		t.Errorf("generated %q and %q", a, b)
	}
}

func BenchmarkKnownCredential(b *testing.B) {
	s := build(b, newBook(b, "user001"), &atomic.Int64{}, nil)
	header := basic("user001", "pw-user001")
	for b.Loop() {
		if _, err := s.Basic(b.Context(), header, "10.0.0.1"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNobodyIsTurnedAwayByADoorThatIsOpening: right after a start the table does
// not know everybody yet, and a browser that is told 401 asks its person for the
// password.
func TestNobodyIsTurnedAwayByADoorThatIsOpening(t *testing.T) {
	b := newBook(t)
	var opening atomic.Bool
	opening.Store(true)
	var hashed atomic.Int64
	s, err := signin.New(signin.Config{Person: b.person, Instructor: "boss", InstructorHash: func() string { return "" }, Logger: slog.New(slog.DiscardHandler), Verify: counted(&hashed), Opening: opening.Load})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // and it costs them none of their guesses
		for _, name := range []string{"user001", "boss"} {
			if _, err := s.Basic(t.Context(), basic(name, "pw-"+name), "1.2.3.4"); cluster.CodeOf(err) != cluster.Unavailable {
				t.Fatalf("%s at a door that is opening: %v", name, err)
			}
		}
	}
	b.set(t, "user001", "pw-user001")
	if id, err := s.Basic(t.Context(), basic("user001", "pw-user001"), "1.2.3.4"); err != nil || id.User != "user001" {
		t.Errorf("known already: %v, %v", id, err)
	}
	opening.Store(false)
	if _, err := s.Basic(t.Context(), basic("user002", "pw-user002"), "1.2.3.4"); cluster.CodeOf(err) != cluster.Unauthorized {
		t.Errorf("unknown at an open door: %v", err)
	}
}
