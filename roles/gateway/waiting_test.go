package gateway_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// A participant sees the place of their own jobs, and of others counts only.
func TestMyPlaceInTheQueue(t *testing.T) {
	w := open(t, options{visited: true, turns: func(u cluster.User) map[jobs.ID]jobs.Turn {
		return map[jobs.ID]jobs.Turn{{User: u, Prompt: "p-mine"}: {Position: 3, Start: 1 << 50, Run: 12_000, Reason: "2 jobs go before it"}}
	}})
	w.do(&jobs.Submit{ID: jobs.ID{User: ann, Prompt: "p-mine"}, BodyHash: "h", Body: []byte("b")})
	w.do(&jobs.Submit{ID: jobs.ID{User: bob, Prompt: "p-theirs"}, BodyHash: "h", Body: []byte("b")})
	var got struct {
		Waiting int
		Jobs    []struct {
			Prompt   string `json:"prompt_id"`
			Position int
			Wait     int64 `json:"wait_s"`
			Run      int64 `json:"run_s"`
			Reason   string
		}
	}
	w.get(ann, "/user001/api/workshop/queue").want(t, 200).json(t, &got)
	if got.Waiting != 2 || len(got.Jobs) != 1 || got.Jobs[0].Prompt != "p-mine" || got.Jobs[0].Position != 3 || got.Jobs[0].Wait < 1 || got.Jobs[0].Run != 12 || got.Jobs[0].Reason != "2 jobs go before it" {
		t.Errorf("%+v", got)
	}
	page := string(w.get(ann, "/user001/workshop/waiting").want(t, 200).body)
	if !strings.Contains(page, "number 3") || !strings.Contains(page, "2 jobs wait") || strings.Contains(page, "p-theirs") {
		t.Errorf("the page says %s", page)
	}

	// Queued a moment ago: the leader has not told its place yet.
	w.do(&jobs.Submit{ID: jobs.ID{User: ann, Prompt: "p-new"}, BodyHash: "h", Body: []byte("b")})
	page = string(w.get(ann, "/user001/workshop/waiting").want(t, 200).body)
	if strings.Contains(page, "number 0") || !strings.Contains(page, "its place is known in a moment") {
		t.Errorf("of a job without a place the page says %s", page)
	}
}
