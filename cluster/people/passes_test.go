package people_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// passes is a table with ann, and its clock.
type passes struct {
	*people.Table
	now int64
}

func newPasses(t *testing.T) *passes {
	t.Helper()
	p := &passes{Table: people.New()}
	if got := p.do(&people.Put{Name: "ann", Hash: "h"}); got != "" {
		t.Fatal(got)
	}
	return p
}

func (p *passes) do(c cluster.Command) cluster.Code {
	p.now += 1000
	mutate, err := p.Plan(c, p.now)
	if err != nil {
		return cluster.CodeOf(err)
	}
	mutate()
	return ""
}

func link(id string, until int64) people.Pass {
	return people.Pass{ID: id, Kind: people.Link, Until: until}
}

// TestLinkCountsOnce: whichever gateway asks first gets it, a newer link voids
// an older one, and one that ran out is over.
func TestLinkCountsOnce(t *testing.T) {
	p := newPasses(t)
	for i, s := range []struct {
		cmd  cluster.Command
		want cluster.Code
	}{
		{&people.Redeem{Name: "ann", ID: "l1"}, cluster.Conflict},
		{&people.Give{Name: "ann", Pass: link("l1", 1<<40)}, ""},
		{&people.Redeem{Name: "bob", ID: "l1"}, cluster.Conflict},
		{&people.Redeem{Name: "ann", ID: "l1"}, ""},
		{&people.Redeem{Name: "ann", ID: "l1"}, cluster.Conflict},
		{&people.Give{Name: "ann", Pass: link("l2", 1<<40)}, ""},
		{&people.Give{Name: "ann", Pass: link("l3", 1<<40)}, ""},
		{&people.Redeem{Name: "ann", ID: "l2"}, cluster.Conflict},
		{&people.Redeem{Name: "ann", ID: "l3"}, ""},
		{&people.Give{Name: "ann", Pass: link("l4", p.now+9_500)}, cluster.Invalid},
		{&people.Give{Name: "ann", Pass: link("l4", p.now+12_500)}, ""},
		{&people.Visit{Name: "ann"}, ""},
		{&people.Redeem{Name: "ann", ID: "l4"}, cluster.Conflict},
		{&people.Give{Name: "bob", Pass: link("l5", 1<<40)}, cluster.NotFound},
		{&people.Disable{Name: "ann"}, ""},
		{&people.Give{Name: "ann", Pass: link("l6", 1<<40)}, cluster.Conflict},
		{&people.Give{Name: "ann", Pass: people.Pass{ID: "s", Kind: people.Session, Until: 1 << 40}}, cluster.Conflict},
	} {
		if got := p.do(s.cmd); got != s.want {
			t.Errorf("step %d, %+v: %q, want %q", i, s.cmd, got, s.want)
		}
	}
}

func TestTokensCountUntilTheyAreEnded(t *testing.T) {
	p := newPasses(t)
	for i := range 20 {
		if got := p.do(&people.Give{Name: "ann", Pass: people.Pass{ID: fmt.Sprint("t", i), Kind: people.Token, Until: 1 << 40}}); got != "" {
			t.Fatal(got)
		}
	}
	if got := p.do(&people.Give{Name: "ann", Pass: people.Pass{ID: "t20", Kind: people.Token, Until: 1 << 40}}); got != cluster.Quota {
		t.Errorf("a 21st token: %q", got)
	}
	if !p.Counts("ann", people.Token, "t7", 0) || p.Counts("ann", people.Token, "t20", 0) || p.Counts("ann", people.Link, "t7", 0) || p.Counts("bob", people.Token, "t7", 0) {
		t.Error("the wrong tokens count")
	}
	if got := p.do(&people.EndPass{Name: "ann", Pass: people.Pass{ID: "t7", Kind: people.Token}}); got != "" || p.Counts("ann", people.Token, "t7", 0) {
		t.Errorf("an ended token counts: %q", got)
	}
	if got := p.do(&people.EndPass{Name: "ann", Pass: people.Pass{ID: "t7", Kind: people.Token}}); got != cluster.NotFound {
		t.Errorf("ending it twice: %q", got)
	}
	if n := len(p.Tokens("ann")); n != 19 {
		t.Errorf("%d tokens", n)
	}
}

// TestEndedSessionStaysEnded: however many there are, none comes to life again,
// and nobody else's is touched.
func TestEndedSessionStaysEnded(t *testing.T) {
	p := newPasses(t)
	session := func(i int) people.Pass {
		return people.Pass{ID: fmt.Sprint("s", i), Kind: people.Session, Until: 1 << 40}
	}
	for i := range 120 {
		if got := p.do(&people.EndPass{Name: "ann", Pass: session(i)}); got != "" {
			t.Fatal(got)
		}
		for k := range i + 1 {
			if p.Counts("ann", people.Session, fmt.Sprint("s", k), 0) {
				t.Fatalf("session %d counts after %d were ended", k, i+1)
			}
		}
	}
	if now := p.Era("ann"); now == 0 || !p.Counts("ann", people.Session, "new", now) {
		t.Errorf("a new session of era %d does not count", now)
	}
	if !p.Counts("teacher", people.Session, "s1", 0) {
		t.Error("somebody else's session ended with them")
	}
	if got := p.do(&people.EndPass{Name: "teacher", Pass: session(1)}); got != "" || p.Counts("teacher", people.Session, "s1", 0) || !p.Counts("teacher", people.Session, "s2", 0) {
		t.Errorf("the instructor's session: %q", got)
	}
	if got := p.do(&people.EndPass{Name: "../ann", Pass: session(1)}); got != cluster.Invalid {
		t.Errorf("a name that is a path: %q", got)
	}
}

func TestSignedOutEverywhere(t *testing.T) {
	p := newPasses(t)
	p.do(&people.Give{Name: "ann", Pass: link("l1", 1<<40)})
	p.do(&people.Give{Name: "ann", Pass: people.Pass{ID: "t1", Kind: people.Token, Until: 1 << 40}})
	if got := p.do(&people.EndPass{Name: "ann", All: true}); got != "" {
		t.Fatal(got)
	}
	if p.Counts("ann", people.Session, "s1", 0) || p.Counts("ann", people.Token, "t1", 0) || p.do(&people.Redeem{Name: "ann", ID: "l1"}) != cluster.Conflict {
		t.Error("something counts on")
	}
	if !p.Counts("ann", people.Session, "s2", 1) {
		t.Error("the next session does not count")
	}
	back := people.Restore(p.Snapshot())
	if d := cmp.Diff(p.Snapshot(), back.Snapshot()); d != "" {
		t.Error(d)
	}
}

// TestWhatRanOutIsForgotten keeps a user's row small.
func TestWhatRanOutIsForgotten(t *testing.T) {
	p := newPasses(t)
	for i := range 200 {
		p.do(&people.EndPass{Name: "ann", Pass: people.Pass{ID: fmt.Sprint(i), Kind: people.Session, Until: p.now + 5000}})
	}
	if s := p.Snapshot().Passes[0]; len(s.Ended) > 5 || s.Era != 0 {
		t.Errorf("%d ended sessions are kept, era %d", len(s.Ended), s.Era)
	}
}
