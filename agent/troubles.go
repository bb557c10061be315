package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/ui"
)

// verbTroubles asks a gateway for the requests that it answered with a status
// >= 400: they are in its memory only.
const verbTroubles peer.Verb = "troubles"

// search is for a person, or for an error id that a dialog showed.
type search struct {
	User cluster.User `cbor:"1,keyasint"`
	ID   string       `cbor:"2,keyasint"` // its beginning, "" = not searched for
}

// searchOf reads what somebody typed.
func searchOf(word string) (s search, err error) {
	word = strings.TrimPrefix(strings.TrimSpace(word), "Error id ")
	if s.User = cluster.User(word); len(word) >= minPrefix {
		s.ID = word
	}
	if word == "" || len(word) > 64 {
		return s, cluster.Errorf(cluster.Invalid, "name a user, or an error id as the dialog shows it")
	}
	return s, nil
}

// serveTroubles answers other core nodes.
func serveTroubles(s *peer.Server, r *roles) {
	peer.Handle(s, verbTroubles, peer.CoreOnly, func(_ context.Context, _ peer.Who, in search) ([]gateway.Problem, error) {
		if g := r.gateway.Load(); g != nil {
			return g.ProblemsOf(in.User, in.ID), nil
		}
		return nil, nil
	})
}

// askWithin is how long a gateway may take to say what it refused: the page asks
// once a second.
const askWithin = time.Second

// Troubles is what went wrong for a person, or behind an error id: their last
// requests that were refused or failed, at every gateway, and their last jobs.
func (v *view) Troubles(ctx context.Context, word string) (ui.Troubles, error) {
	q, err := searchOf(word)
	if err != nil {
		return ui.Troubles{}, err
	}
	out := ui.Troubles{Of: word}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range append(v.swarm.gateways(), v.swarm.self.ID) {
		wg.Go(func() {
			var found []gateway.Problem
			err := v.swarm.client.Call(ctx, id, verbTroubles, q, &found)
			mu.Lock()
			defer mu.Unlock()
			name := v.name(id)
			if err != nil {
				out.Silent = append(out.Silent, name)
			}
			for _, p := range found {
				out.Requests = append(out.Requests, ui.Request{
					At: p.At.UnixMilli(), User: p.User, Node: name, Method: p.Method, Route: p.Route, Path: p.Path, Status: p.Status, Text: p.Text, Cure: p.Cure, ID: p.ID,
				})
			}
		})
	}
	wg.Wait()
	slices.SortStableFunc(out.Requests, func(x, y ui.Request) int { return int(y.At - x.At) })
	out.Requests = out.Requests[:min(ui.MaxTroubles, len(out.Requests))]
	known := false
	v.swarm.core.machine.People(func(t *people.Table) { _, known = t.Person(q.User) })
	v.swarm.core.machine.Jobs(func(t *jobs.Table) { out.Jobs = jobsOf(t, q, known) })
	if !known && len(out.Requests)+len(out.Jobs)+len(out.Silent) == 0 {
		return out, cluster.Errorf(cluster.NotFound, "nobody is called %q, and no request or job that is still known has that error id", word)
	}
	return out, nil
}

// jobsOf are a person's last jobs, open ones first, or those whose id begins so.
func jobsOf(t *jobs.Table, q search, known bool) (out []ui.Job) {
	add := func(j *jobs.Job) bool {
		if known && j.ID.User == q.User || q.ID != "" && strings.HasPrefix(j.ID.Prompt, q.ID) {
			out = append(out, row(j))
		}
		return true
	}
	if known {
		for _, j := range t.Open(q.User) {
			add(&j)
		}
		slices.Reverse(out)
		for _, j := range t.Recent(ui.MaxTroubles, func(j *jobs.Job) bool { return j.ID.User == q.User }) {
			add(&j)
		}
	} else if q.ID != "" {
		t.Rows(add)
	}
	return out[:min(ui.MaxTroubles, len(out))]
}

// Troubles refuses: a machine that runs participants' code must not see them.
func (g *guestView) Troubles(context.Context, string) (ui.Troubles, error) {
	return ui.Troubles{}, cluster.Errorf(cluster.Forbidden, "%s", g.readOnly(g.View()))
}

// jobCure says what to do about a failed job, by the type of its failure.
func jobCure(f *jobs.Failure) string {
	if f == nil {
		return ""
	}
	if strings.Contains(f.Type, "OutOfMemory") {
		return "A smaller picture, batch or model, or a GPU with more memory; then Retry."
	}
	switch f.Type {
	case "worker_lost":
		return "Look at GPUs and workers; when one is idle again: Retry."
	case "not_retried":
		return "See at the paid service whether it ran; then Retry."
	case "input_missing", "input_refused":
		return "They upload the file again and queue anew."
	case "no_space":
		return "Free space on the machines that keep files; then Retry."
	case "comfyui_too_old":
		return "Upgrade ComfyUI on that machine."
	case "invalid_prompt", "prompt_refused", "prompt_outputs_failed_validation", "missing_node_type":
		return "The GPU machine's ComfyUI does not take it: compare its nodes and models with the workflow."
	}
	return "The node of the workflow says it: look at its settings; the log of that ComfyUI has the whole traceback."
}
