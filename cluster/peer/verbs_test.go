package peer_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// desk is a steward that notes whose worker it was asked about.
type desk struct{ asked []cluster.WorkerID }

func (d *desk) note(w cluster.WorkerID) { d.asked = append(d.asked, w) }

func (d *desk) Claim(_ context.Context, c jobs.Claim) (jobs.Assignment, error) {
	d.note(c.Worker)
	return jobs.Assignment{}, nil
}

func (d *desk) Started(_ context.Context, l jobs.Lease) (uint64, error) {
	d.note(l.Worker)
	return 0, nil
}

func (d *desk) Renew(_ context.Context, l jobs.Lease) (v jobs.Verdict, err error) {
	d.note(l.Worker)
	return v, nil
}
func (d *desk) GpuDone(_ context.Context, l jobs.Lease) error { d.note(l.Worker); return nil }
func (d *desk) Outputs(_ context.Context, l jobs.Lease, _ []files.NewOutput) ([]files.Place, uint64, error) {
	d.note(l.Worker)
	return nil, 0, nil
}
func (d *desk) Finish(_ context.Context, f jobs.Finish) error { d.note(f.Lease.Worker); return nil }
func (d *desk) Requeue(_ context.Context, l jobs.Lease, _ bool, _ string) error {
	d.note(l.Worker)
	return nil
}

func (d *desk) OutOfMemory(_ context.Context, l jobs.Lease, _ jobs.Memory) (bool, error) {
	d.note(l.Worker)
	return false, nil
}

func (d *desk) Hold(_ context.Context, l jobs.Lease, _ string) error { d.note(l.Worker); return nil }

// nobodysTable has no job.
type nobodysTable struct{}

func (nobodysTable) Jobs(f func(*jobs.Table)) { f(jobs.New()) }

// noLog refuses: what a verb proposes is looked at before that.
type noLog struct{ proposed []cluster.Command }

func (l *noLog) Propose(_ context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	l.proposed = append(l.proposed, cmds...)
	return cluster.Outcome{}, cluster.Errorf(cluster.Unavailable, "nothing is kept here")
}

// FuzzVerbs: whatever a machine that only runs jobs sends to whatever verb, it is
// answered or refused, and no question about another machine's worker comes
// through to the steward.
func FuzzVerbs(f *testing.F) {
	lineage := cluster.Lineage{Cluster: "shop", Generation: cluster.Generation{Number: 1, Mark: "ab"}}
	gate := peer.NewGate(peer.GateConfig{Self: "core", Lineage: func() cluster.Lineage { return lineage }, WhoIs: func(context.Context, string) (peer.Who, error) {
		return peer.Who{Node: "id-g", Name: "g", GPU: true}, nil
	}})
	server := peer.NewServer(gate, func() cluster.NodeID { return "core" }, slog.New(slog.DiscardHandler))
	steward, log := &desk{}, &noLog{}
	peer.ServeWork(server, peer.WorkConfig{Steward: steward, Table: nobodysTable{}, Propose: log, Self: "core", Leads: func() bool { return true }})
	raw := func(v any) []byte {
		b, err := cluster.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	for _, worker := range []cluster.WorkerID{"g/0", "h/0", "g", "g/../h/0", ""} {
		l := jobs.Lease{Job: jobs.ID{User: "ann", Prompt: "p"}, Worker: worker, Epoch: 1}
		for v := range server.Verbs() {
			f.Add(string(v), raw(l))
			f.Add(string(v), raw(map[int]any{1: l}))
			f.Add(string(v), raw(jobs.Claim{Worker: worker}))
		}
	}
	good := raw(jobs.Lease{Job: jobs.ID{User: "ann", Prompt: "p"}, Worker: "g/0", Epoch: 1})
	f.Add("work/claim", []byte{0x9f, 0x9f, 0x9f})
	f.Add("../work/claim", []byte{0xbf})
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, verb string, body []byte) {
		if strings.ContainsAny(verb, " ?#%\x7f") || strings.ContainsFunc(verb, func(r rune) bool { return r < ' ' || r > '~' }) {
			return
		}
		steward.asked, log.proposed = nil, nil
		r := httptest.NewRequest(http.MethodPost, "http://core/peer/x", bytes.NewReader(body))
		r.URL.Path = "/peer/" + verb
		r.Header.Set("Comfyume-Cluster", string(lineage.Cluster))
		r.Header.Set("Comfyume-Generation", lineage.Generation.String())
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%q %x: %s", verb, body, w.Body)
		}
		if verb == "work/renew" && bytes.Equal(body, good) && len(steward.asked) != 1 {
			t.Errorf("a question about its own worker is answered %d %s", w.Code, w.Body)
		}
		for _, id := range steward.asked {
			if !strings.HasPrefix(string(id), "g/") {
				t.Errorf("%q %x: g asked about %s", verb, body, id)
			}
		}
	})
}
