package gateway

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// waitingJob is one of the user's own open jobs, in words for them.
type waitingJob struct {
	Prompt   string `json:"prompt_id"`
	Title    string `json:"title"`
	State    string `json:"state"` // waiting, held or running
	Position int    `json:"position,omitempty"`
	Start    int64  `json:"expected_start,omitempty"` // milliseconds since 1970
	Wait     int64  `json:"wait_s,omitempty"`         // seconds from now, at least 1 while it waits; 0 = not known
	Load     int64  `json:"load_s,omitempty"`         // models are loaded for so long then
	Run      int64  `json:"run_s,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// waitingList answers GET /workshop/queue: of others it has counts only.
type waitingList struct {
	Waiting int          `json:"waiting"` // everybody's
	Running int          `json:"running"`
	Jobs    []waitingJob `json:"jobs"`
}

// waitingOf reads a user's open jobs and what is expected of them.
func (g *Gateway) waitingOf(c *call) waitingList {
	now := g.cfg.Now().UnixMilli()
	var turns map[jobs.ID]jobs.Turn
	if g.cfg.Turns != nil {
		turns = g.cfg.Turns(c.user)
	}
	out := waitingList{Jobs: []waitingJob{}}
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		n := t.Count()
		out.Waiting, out.Running = n.Waiting, n.Running
		for _, j := range t.Open(c.user) {
			w := waitingJob{Prompt: j.ID.Prompt, Title: j.Title, State: "running"}
			if j.State.Waiting() {
				turn := turns[j.ID]
				w.State, w.Position, w.Start, w.Reason = "waiting", turn.Position, turn.Start, turn.Reason
				w.Wait, w.Load, w.Run = turn.Wait(now)/1000, (turn.Load+999)/1000, (turn.Run+999)/1000
				if j.State == jobs.Held {
					w.State, w.Reason = "held", j.Reason
				}
			}
			out.Jobs = append(out.Jobs, w)
		}
	})
	return out
}

// waiting is GET /workshop/queue.
func (g *Gateway) waiting(c *call) {
	raw, err := json.Marshal(g.waitingOf(c))
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
}

// waitingPage is the same for people; it looks again by itself.
func (g *Gateway) waitingPage(c *call) {
	list := g.waitingOf(c)
	type line struct{ Prompt, Words string }
	var rows []line
	for _, j := range list.Jobs {
		rows = append(rows, line{j.Prompt, j.words()})
	}
	c.Response.Header.Set("Refresh", "5")
	g.page(c.RequestCtx, "waiting", map[string]any{"Waiting": list.Waiting, "Running": list.Running, "Rows": rows})
}

// words is a job in one sentence.
func (j waitingJob) words() string {
	if j.State != "waiting" {
		return fmt.Sprintf("%s: %s %s", j.Title, j.State, j.Reason)
	}
	if j.Position == 0 { // queued a moment ago: the leader has not told its place yet
		return fmt.Sprintf("%s: waiting; its place is known in a moment", j.Title)
	}
	when := "when it begins is not known yet"
	if j.Wait > 0 {
		when = fmt.Sprintf("begins in about %s, runs about %s", time.Duration(j.Wait)*time.Second, time.Duration(j.Load+j.Run)*time.Second)
	}
	return fmt.Sprintf("%s: number %d, %s; %s", j.Title, j.Position, when, j.Reason)
}
