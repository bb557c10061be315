package gateway_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

func submitWithToken(w *world, id, token string) answer {
	w.t.Helper()
	return w.post(ann, "/prompt", `{"client_id":"tab1","prompt_id":"`+id+`","prompt":`+graph(id)+`,"extra_data":{"auth_token_comfy_org":"`+token+`","api_key_comfy_org":"key-`+token+`","extra_pnginfo":{"workflow":{"id":"w"}}}}`)
}

func tokenOf(t *testing.T, w *world, u cluster.User, id string) string {
	t.Helper()
	s, _ := w.gw.Secrets(t.Context(), jobs.ID{User: u, Prompt: id})
	return s["auth_token_comfy_org"]
}

// TestTokensStayInMemory: a user's tokens are for the worker and in nothing
// that is stored, logged or shown.
func TestTokensStayInMemory(t *testing.T) {
	w := open(t, options{visited: true})
	p := w.page(ann, "tab1")
	submitWithToken(w, "p1", "canary-token").want(t, 200)
	if got := w.job(ann, "p1").Secrets; got != "mello" {
		t.Errorf("the row says that %q has the tokens", got)
	}
	if got := tokenOf(t, w, ann, "p1"); got != "canary-token" {
		t.Errorf("the worker gets %q", got)
	}
	if got := tokenOf(t, w, bob, "p1"); got != "" {
		t.Errorf("another user's job of that id gets %q", got)
	}
	s := w.assign(ann, "p1").begin()
	shown := w.get(ann, "/queue").body + w.get(ann, "/api/jobs").body + w.get(ann, "/api/jobs/p1").body
	s.done("x_00001_.png")
	all := p.waitFor("executing p1 null")
	shown += w.get(ann, "/history").body + w.get(ann, "/api/jobs/p1").body
	for _, h := range all {
		shown += string(h.m.Data)
	}
	var state strings.Builder
	if err := w.machine.Snapshot()(&state); err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"answers and frames": shown, "the tables": state.String(), "the log": w.logged.String()} {
		if strings.Contains(text, "canary-token") {
			t.Errorf("the token is in %s", where)
		}
	}
	w.until("the token is forgotten with the job's end", func() bool { return tokenOf(t, w, ann, "p1") == "" })
}

// TestHeldJobsGoWithNewTokens: jobs that lost their tokens wait, and the next
// submit that brings some lets them go with these.
func TestHeldJobsGoWithNewTokens(t *testing.T) {
	w := open(t, options{visited: true})
	for _, id := range []string{"old1", "old2", "old3"} {
		submitWithToken(w, id, "stale").want(t, 200)
	}
	for _, id := range []string{"old1", "old2", "old3"} {
		s := w.assign(ann, id)
		w.do(&jobs.Hold{Lease: s.lease, Reason: "sign in again"})
	}
	w.submit(ann, "tab1", "without")
	if st := w.job(ann, "old1").State; st != jobs.Held {
		t.Errorf("a submit without tokens made it %s", st)
	}
	submitWithToken(w, "new", "fresh").want(t, 200)
	for _, id := range []string{"old1", "old2", "old3"} {
		if st := w.job(ann, id).State; st != jobs.Pending {
			t.Errorf("%s is %s", id, st)
		}
		if got := tokenOf(t, w, ann, id); got != "fresh" {
			t.Errorf("%s goes with %q", id, got)
		}
	}
}

// TestTokensOfRefusedSubmits are not kept; those of a submit that may have been
// committed are.
func TestTokensOfRefusedSubmits(t *testing.T) {
	w := open(t, options{visited: true, maxWaiting: 1})
	w.submit(ann, "tab1", "first")
	submitWithToken(w, "over", "canary").want(t, 429)
	if got := tokenOf(t, w, ann, "over"); got != "" {
		t.Errorf("kept %q of a refused submit", got)
	}
	s := w.assign(ann, "first")
	submitWithToken(w, "again", "first-token").want(t, 429) // assigned ones wait still
	s.begin().end(jobs.Done, "{}", comfy.ExecutionSuccess("first", 2), nil)
	submitWithToken(w, "again", "first-token").want(t, 200)
	submitWithToken(w, "again", "first-token").want(t, 200) // the same again
	if got := tokenOf(t, w, ann, "again"); got != "first-token" {
		t.Errorf("after a repeat: %q", got)
	}
	w.assign(ann, "again").end(jobs.Done, "{}", comfy.ExecutionSuccess("again", 2), nil)
	w.until("forgotten", func() bool { return tokenOf(t, w, ann, "again") == "" })
	submitWithToken(w, "again", "first-token").want(t, 200) // the answer is repeated
	if got := tokenOf(t, w, ann, "again"); got != "" {
		t.Errorf("kept %q for a job that has ended", got)
	}
	w.log.fail(cluster.Errorf(cluster.NoLeader, "no node can commit at present"))
	submitWithToken(w, "lost", "maybe").want(t, 503)
	w.log.fail(nil)
	if got := tokenOf(t, w, ann, "lost"); got != "maybe" {
		t.Errorf("a submit that may have been committed keeps %q", got)
	}
}
