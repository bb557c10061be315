package signin_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// counts runs n sign-ins at once and counts their answers.
func counts(t *testing.T, s *signin.SignIn, n int, of func(i int) (header, from string)) map[cluster.Code]int {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	out := map[cluster.Code]int{}
	for i := range n {
		wg.Go(func() {
			header, from := of(i)
			_, err := s.Basic(t.Context(), header, from)
			mu.Lock()
			defer mu.Unlock()
			out[cluster.CodeOf(err)]++
		})
	}
	wg.Wait()
	return out
}

func TestParallelGuessesAreCountedBeforeTheyAreHashed(t *testing.T) {
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, newBook(t, "user001"), &n, func() time.Time { return now })
	got := counts(t, s, 500, func(i int) (string, string) { return basic("user001", fmt.Sprint("guess", i)), "attacker" })
	if n.Load() > 10 || got[cluster.Quota] < 490 || got[""] != 0 {
		t.Errorf("%d of 500 guesses were hashed: %v", n.Load(), got)
	}
}

// A page asks for sixty files at once with the password that its tab remembers.
func TestOneOldPasswordOfAWholePageIsOneWrongPassword(t *testing.T) {
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, newBook(t, "user001"), &n, func() time.Time { return now })
	got := counts(t, s, 60, func(int) (string, string) { return basic("user001", "last week's"), "classroom" })
	if got[""] != 0 || got[cluster.Unauthorized] == 0 {
		t.Errorf("answers %v", got)
	}
	if _, err := s.Basic(t.Context(), basic("user001", "pw-user001"), "classroom"); err != nil {
		t.Errorf("the right password afterwards: %v", err)
	}
}

// TestHashingIsBounded holds every hash and sees that no more than half of the
// cores are at it, that what is known already is let in meanwhile, and that a
// caller who waits too long is told so.
func TestHashingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, "user001", "user002")
		held, inside := make(chan struct{}), atomic.Int64{}
		hold := atomic.Bool{}
		s, err := signin.New(signin.Config{Person: b.person, Logger: slog.New(slog.DiscardHandler), Verify: func(hash, password string) bool {
			inside.Add(1)
			defer inside.Add(-1)
			if hold.Load() {
				<-held
				return false
			}
			return signin.Verify(hash, password)
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Basic(t.Context(), basic("user001", "pw-user001"), "home"); err != nil {
			t.Fatal(err)
		}
		hold.Store(true)
		var wg sync.WaitGroup
		codes := make(chan cluster.Code, 40)
		for i := range 40 {
			wg.Go(func() {
				_, err := s.Basic(t.Context(), basic("user002", fmt.Sprint("guess", i)), fmt.Sprint("10.0.0.", i))
				codes <- cluster.CodeOf(err)
			})
		}
		synctest.Wait()
		if got := inside.Load(); got < 1 || got > 8 {
			t.Errorf("%d hash at once", got)
		}
		if _, err := s.Basic(t.Context(), basic("user001", "pw-user001"), "home"); err != nil {
			t.Errorf("someone known waited behind a flood: %v", err)
		}
		time.Sleep(31 * time.Second) // of the bubble's clock
		synctest.Wait()
		if len(codes) < 30 {
			t.Errorf("%d of 40 were answered after 31 s", len(codes))
		}
		close(held)
		wg.Wait()
		close(codes)
		seen := map[cluster.Code]int{}
		for c := range codes {
			seen[c]++
		}
		if seen[cluster.Unavailable] < 30 || seen[""] != 0 {
			t.Errorf("answers %v", seen)
		}
	})
}

func TestQuotaNamesTheWait(t *testing.T) {
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, newBook(t, "user001"), &n, func() time.Time { return now })
	var err error
	for i := range 11 {
		_, err = s.Basic(t.Context(), basic("user001", fmt.Sprint(i)), "here")
	}
	if cluster.CodeOf(err) != cluster.Quota || !strings.Contains(cluster.MessageOf(err), "Wait 6 seconds") && !strings.Contains(cluster.MessageOf(err), "Wait 7 seconds") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownNameCostsAHashToo(t *testing.T) {
	var n atomic.Int64
	s := build(t, newBook(t, "user001"), &n, nil)
	for i, name := range []string{"user001", "nobody", "root"} {
		if _, err := s.Basic(t.Context(), basic(name, "wrong"), "here"); cluster.CodeOf(err) != cluster.Unauthorized || n.Load() != int64(i+1) {
			t.Errorf("%s: %v after %d hashes", name, err, n.Load())
		}
	}
	if cost, err := bcrypt.Cost([]byte(signin.NobodyHash)); err != nil || cost != bcrypt.DefaultCost {
		t.Errorf("an unknown name costs %d (%v), a password %d", cost, err, bcrypt.DefaultCost)
	}
}

func TestKnownForFiveMinutes(t *testing.T) {
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, newBook(t, "user001"), &n, func() time.Time { return now })
	for _, c := range []struct {
		later  time.Duration
		hashes int64
	}{{0, 1}, {4*time.Minute + 59*time.Second, 1}, {2 * time.Second, 2}, {time.Minute, 2}} {
		now = now.Add(c.later)
		if _, err := s.Basic(t.Context(), basic("user001", "pw-user001"), "here"); err != nil || n.Load() != c.hashes {
			t.Errorf("%s later: %v, %d hashes, want %d", c.later, err, n.Load(), c.hashes)
		}
	}
}

// TestUnknownNamesDoNotDelayAParticipant: forty made-up names wait to be hashed
// when a participant comes; they are next, not forty-first.
func TestUnknownNamesDoNotDelayAParticipant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, "user001")
		goOn, strangers := make(chan struct{}), atomic.Int64{}
		s, err := signin.New(signin.Config{Person: b.person, Logger: slog.New(slog.DiscardHandler), Verify: func(hash, password string) bool {
			if password == "guess" {
				strangers.Add(1)
				<-goOn
				return false
			}
			return signin.Verify(hash, password)
		}})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() { _, _ = s.Basic(t.Context(), basic(fmt.Sprint("nobody", i), "guess"), "attacker") })
		}
		synctest.Wait()
		in := make(chan error, 1)
		wg.Go(func() {
			_, err := s.Basic(t.Context(), basic("user001", "pw-user001"), "attacker")
			in <- err
		})
		synctest.Wait()
		goOn <- struct{}{}
		synctest.Wait()
		select {
		case err := <-in:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("a participant still waits after %d strangers", strangers.Load())
		}
		close(goOn)
		wg.Wait()
	})
}

// TestGuessesFromManyPlaces: hundreds of machines guess for one user. They get
// few guesses between them, and the user is let in from where they were before,
// also when nothing is remembered of the password; elsewhere they are told of a
// way in that no flood closes.
func TestGuessesFromManyPlaces(t *testing.T) {
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, newBook(t, "user001", "user002"), &n, func() time.Time { return now })
	in := func(user, pw, from string) error {
		_, err := s.Basic(t.Context(), basic(user, pw), from)
		return err
	}
	if err := in("user001", "pw-user001", "home"); err != nil {
		t.Fatal(err)
	}
	n.Store(0)
	got := counts(t, s, 300, func(i int) (string, string) {
		return basic("user001", fmt.Sprint("guess", i)), fmt.Sprint("10.1.", i/250, ".", i%250)
	})
	if n.Load() > 50 || got[cluster.Quota] < 250 || got[""] != 0 {
		t.Errorf("%d of 300 guesses were hashed: %v", n.Load(), got)
	}
	now = now.Add(6 * time.Minute) // the password is not remembered any more
	counts(t, s, 300, func(i int) (string, string) {
		return basic("user001", fmt.Sprint("again", i)), fmt.Sprint("10.2.", i/250, ".", i%250)
	})
	if err := in("user001", "pw-user001", "home"); err != nil {
		t.Errorf("the user at home: %v", err)
	}
	if err := in("user002", "pw-user002", "elsewhere"); err != nil {
		t.Errorf("another user: %v", err)
	}
	now = now.Add(6 * time.Minute)
	counts(t, s, 300, func(i int) (string, string) {
		return basic("user001", fmt.Sprint("more", i)), fmt.Sprint("10.3.", i/250, ".", i%250)
	})
	if err := in("user001", "another password", "a new place"); cluster.CodeOf(err) != cluster.Quota || !strings.Contains(cluster.MessageOf(err), "sign-in link") {
		t.Errorf("at a new place: %v", err)
	}
}

// TestGuessesOfANeighbour: a whole class has one address, and one of them guesses
// for another. The other's browser, which has signed in before, has guesses of
// its own.
func TestGuessesOfANeighbour(t *testing.T) {
	w := newShared(t, "user001")
	g := w.gateway(t)
	before := session(t, g, signin.Identity{User: "user001"})
	w.later(30 * 24 * time.Hour) // and has ended since
	for i := range 20 {
		_, _ = g.Password(t.Context(), "user001", fmt.Sprint("guess", i), "class")
	}
	if _, err := g.Password(t.Context(), "user001", "pw-user001", "class"); cluster.CodeOf(err) != cluster.Quota {
		t.Fatalf("the neighbour's guesses are not counted: %v", err)
	}
	if id, err := g.PasswordAgain(t.Context(), "user001", "pw-user001", "class", before); err != nil || id.User != "user001" {
		t.Errorf("the user's own browser: %v", err)
	}
	var last error
	for i := range 20 {
		_, last = g.PasswordAgain(t.Context(), "user001", fmt.Sprint("own guess", i), "class", before)
	}
	if cluster.CodeOf(last) != cluster.Quota {
		t.Errorf("an old session guesses without end: %v", last)
	}
}

// TestManyNamesDoNotMakeGuessesForgotten: counters are bounded, and a flood of
// names must not push out those that count.
func TestManyNamesDoNotMakeGuessesForgotten(t *testing.T) {
	var n atomic.Int64
	now := time.Unix(1_000_000, 0)
	s := build(t, newBook(t, "user001"), &n, func() time.Time { return now })
	guess := func(user, pw string) cluster.Code {
		_, err := s.Basic(t.Context(), basic(user, pw), "attacker")
		return cluster.CodeOf(err)
	}
	for i := range 20 {
		guess("user001", fmt.Sprint("guess", i))
	}
	before := n.Load()
	for i := range 11_000 { // more than there are counters
		guess(fmt.Sprint("nobody", i), "x")
	}
	if got := guess("user001", "one more"); got != cluster.Quota || n.Load()-before > 20 {
		t.Errorf("after 11,000 names: %q, %d hashes", got, n.Load()-before)
	}
}
