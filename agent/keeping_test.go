package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/ui"
)

// TestBackupOfAnEmptyDiskDeletesEverything: what may be deleted is asked of the whole
// workshop: a node without the others, or with another workshop's files, deletes nothing.
func TestBackupOfAnEmptyDiskDeletesEverything(t *testing.T) { // predecessor 48
	inVirtualTime(t, func(s *shop) {
		for _, name := range []string{"a", "b", "c"} {
			s.start(name, "queue,gateway")
		}
		lead := s.settled(3, 3)
		if _, err := lead.core.propose.Propose(context.Background(), &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "a.png"}, Ref: history, Size: 3}); err != nil {
			t.Fatal(err)
		}
		for _, n := range s.nodes { // a follower as well, at once
			named, err := n.core.namedNow(context.Background())
			if err != nil || !named[history] {
				t.Errorf("%s: %v, %v", n.name, named, err)
			}
		}
		dir := filepath.Join(lead.cfg.StateDir, "blobs")
		for range 2 {
			if why, err := lead.core.againstSweeping(dir); why != "" || err != nil {
				t.Errorf("a folder of our own: %q, %v", why, err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "workshop"), []byte("another\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := lead.core.sweep.Look(context.Background()); cluster.CodeOf(err) != cluster.Conflict || !strings.Contains(err.Error(), "another workshop") {
			t.Errorf("another workshop's folder: %v", err)
		}
		for _, n := range s.nodes {
			if n != lead {
				n.kill()
			}
		}
		if _, err := lead.core.namedNow(context.Background()); err == nil {
			t.Error("alone it knows what the table names")
		}
	})
}

// TestDamagedFileComesBackFromTheOtherMachine: read again, set aside, fetched.
func TestDamagedFileComesBackFromTheOtherMachine(t *testing.T) { // predecessor 44
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		s.start("b", "gateway")
		lead := s.settled(1, 2)
		other := s.nodes["b"]
		ref, size, err := lead.blobs.Put(context.Background(), strings.NewReader("a film"), -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lead.core.propose.Propose(context.Background(), &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "a.mp4"}, Ref: ref, Size: size}); err != nil {
			t.Fatal(err)
		}
		has := func(n *testNode) bool { _, ok := n.blobs.Has(context.Background(), ref); return ok }
		s.until("the other to have it", 20*time.Second, func() bool { return has(other) })
		path := filepath.Join(lead.cfg.StateDir, "blobs", "blobs", string(ref[:2]), string(ref))
		if err := os.WriteFile(path, []byte("a filn"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.until("a round", 15*time.Minute, func() bool { return lead.core.scrub.Status().Done })
		if at := lead.core.scrub.Status(); at.Damaged != 1 {
			t.Errorf("the scrub: %+v", at)
		}
		s.until("it to be back", 20*time.Second, func() bool { return has(lead) && lead.core.mirror.Missing() == 0 })
		if _, err := lead.blobs.Reread(context.Background(), ref); err != nil {
			t.Error(err)
		}
	})
}

// TestFilesAtRiskAreCounted: those that only one of the machines that answer has.
func TestFilesAtRiskAreCounted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	keeper := func(here, missing int, lost ...string) heardOf {
		return heardOf{report{Space: &ui.Space{Keeper: true, Here: here}, Missing: missing, Lost: lost}, now}
	}
	silent := keeper(5, 2, "x", "y")
	silent.at = now.Add(-time.Minute)
	gpu := heardOf{report{Space: &ui.Space{}}, now}
	for _, c := range []struct {
		what    string
		all     []heardOf
		want, n int
	}{
		{"nobody keeps files", []heardOf{gpu}, 0, 0},
		{"one machine", []heardOf{keeper(7, 1, "a"), gpu, silent}, 7, 1},
		{"two with all", []heardOf{keeper(7, 0), keeper(7, 0)}, 0, 2},
		{"two that lack some each", []heardOf{keeper(5, 2, "a", "b"), keeper(6, 1, "c")}, 3, 2},
		{"nobody has one", []heardOf{keeper(5, 2, "a", "b"), keeper(6, 1, "a")}, 1, 2},
		{"more than can be named", []heardOf{keeper(5, 900, "a", "b"), keeper(6, 0)}, 900, 2},
		{"three, one lacks", []heardOf{keeper(7, 1, "a"), keeper(7, 0), keeper(7, 0)}, 0, 3},
		{"three, two lack the same", []heardOf{keeper(7, 2, "a", "b"), keeper(7, 2, "b", "c"), keeper(7, 0)}, 1, 3},
	} {
		if got, n := atRisk(c.all, now); got != c.want || n != c.n {
			t.Errorf("%s: %d of %d keepers, want %d of %d", c.what, got, n, c.want, c.n)
		}
	}
}

func TestScrubThatDoesNotGetRoundIsSaid(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := func(days int) int64 { return now.Add(-time.Duration(days) * 24 * time.Hour).UnixMilli() }
	for _, c := range []struct {
		what string
		at   peer.Scrubbed
		bad  bool
		says string
	}{
		{"never", peer.Scrubbed{}, false, "the first round is not done"},
		{"the first round", peer.Scrubbed{Began: ago(3), Read: 5_000_000}, false, "5.0 MB read"},
		{"the first round for long", peer.Scrubbed{Began: ago(9)}, true, "for 9 days"},
		{"well", peer.Scrubbed{Began: ago(3), Finished: ago(2), Damaged: 2, Done: true}, false, "2 were damaged so far"},
		{"not for long", peer.Scrubbed{Began: ago(3), Finished: ago(10)}, true, "for 10 days"},
	} {
		detail, err := checkScrub(func() peer.Scrubbed { return c.at }, func() time.Time { return now }).do(t.Context())
		if err != nil {
			detail = err.Error()
		}
		if (err != nil) != c.bad || !strings.Contains(detail, c.says) {
			t.Errorf("%s: %q", c.what, detail)
		}
	}
}

// A user who is over what they may have is told before the bytes travel, and a job of
// theirs is refused; another's is not.
func TestRoomOfAUser(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		if _, err := lead.core.propose.Propose(context.Background(), &state.SetLevel{Level: 3}); err != nil {
			t.Fatal(err)
		}
		if err := lead.view.Do(context.Background(), "admin", ui.Action{Verb: ui.SetDisk, User: "ann", Bytes: 1000}); err != nil {
			t.Fatal(err)
		}
		if _, err := lead.core.propose.Propose(context.Background(), &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "a"}, Ref: history, Size: 900}); err != nil {
			t.Fatal(err)
		}
		room := lead.core.room(lead.blobs)
		for _, c := range []struct {
			user cluster.User
			n    int64
			want cluster.Code
		}{{"ann", 0, ""}, {"ann", 100, ""}, {"ann", 101, cluster.Quota}, {"bob", 5000, ""}} {
			if err := room(c.user, c.n); cluster.CodeOf(err) != c.want {
				t.Errorf("%s, %d bytes: %v", c.user, c.n, err)
			}
		}
		// A job's results are entered over the bound: it was let in before.
		if _, err := lead.core.propose.Propose(context.Background(), &files.Adopt{User: "ann", Files: []files.File{{Place: files.Place{Area: files.Output, Name: "b"}, Ref: cluster.Ref(strings.Repeat("cd", 32)), Size: 100}}}); err != nil {
			t.Fatal(err)
		}
		if err := room("ann", 0); cluster.CodeOf(err) != cluster.Quota {
			t.Errorf("a job with all of it used: %v", err)
		}
	})
}
