package agent

import (
	"fmt"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/ui"
)

// queued lists the open jobs and counts them per person.
func queued(t *jobs.Table, known []people.Person, workers []ui.Worker, up bool, forecast *policy.Forecast) (rows []ui.Job, more int, load map[cluster.User]*ui.Person) {
	load = map[cluster.User]*ui.Person{}
	person := func(u cluster.User) *ui.Person {
		if load[u] == nil {
			load[u] = &ui.Person{}
		}
		return load[u]
	}
	add := func(j ui.Job) {
		if len(rows) < ui.MaxQueue {
			rows = append(rows, j)
		} else {
			more++
		}
	}
	for _, j := range t.Active() {
		if j.State == jobs.Assigned {
			continue // it still waits, below
		}
		person(j.ID.User).Running++
		r := row(&j)
		r.Percent, r.At = far(workers, j.ID)
		add(r)
	}
	waiting(t, forecast, func(j *jobs.Job, turn jobs.Turn) {
		person(j.ID.User).Waiting++
		r := row(j)
		r.Position, r.Start, r.Load, r.Run = turn.Position, turn.Start, turn.Load, turn.Run
		if !up {
			r.Reason, r.Start = "No GPU is connected: it waits until one joins.", 0
		} else if r.Reason == "" {
			r.Reason = turn.Reason
		} else if turn.Reason != "" {
			r.Reason += "; " + turn.Reason
		}
		add(r)
	})
	for _, k := range known {
		if p := person(k.Name); t.Remaining(k.Name) > p.Running+p.Waiting {
			p.Waiting += held(t, k.Name, add)
		}
	}
	return rows, more, load
}

// waiting calls f for each job that waits: in the order of turns as far as they
// are known, then by place.
func waiting(t *jobs.Table, forecast *policy.Forecast, f func(*jobs.Job, jobs.Turn)) {
	told, position := map[jobs.ID]bool{}, 0
	if forecast != nil {
		for _, turn := range forecast.Told {
			if j, ok := t.Job(turn.Job); ok && (j.State == jobs.Pending || j.State == jobs.Assigned) {
				told[j.ID] = true
				position++
				turn.Position = position
				f(&j, turn.Turn)
			}
		}
	}
	t.Waiting(func(j *jobs.Job) bool {
		if !told[j.ID] {
			position++
			f(j, jobs.Turn{Position: position})
		}
		return true
	})
}

// held adds a user's held jobs, which stand in no index of the queue.
func held(t *jobs.Table, u cluster.User, add func(ui.Job)) (n int) {
	for _, j := range t.Open(u) {
		if j.State == jobs.Held {
			add(row(&j))
			n++
		}
	}
	return n
}

// row is a job as the page shows it.
func row(j *jobs.Job) ui.Job {
	r := ui.Job{
		User: j.ID.User, Prompt: j.ID.Prompt, Number: j.Number, Title: j.Title, State: j.State, Created: j.Created, Started: j.Started,
		Ended: j.Ended, Worker: string(j.Worker), Percent: -1, Reason: j.Reason, Outputs: j.Outputs, Strikes: j.Strikes,
	}
	if j.GpuDone > 0 || j.State.Ended() { // a row that does not change is not sent again
		r.GPU = gpuTime(j, j.Ended).Milliseconds()
	}
	if f := j.Failure; f != nil {
		r.Reason, r.Cure = f.Message, jobCure(f)
		if f.NodeType != "" {
			r.Reason = fmt.Sprintf("%s (node %s, %s)", f.Message, f.NodeID, f.NodeType)
		}
	}
	return r
}

// lastEnded is everybody's newest ended job.
func lastEnded(t *jobs.Table) map[cluster.User]ui.Job {
	last := map[cluster.User]ui.Job{}
	t.Recent(1, func(j *jobs.Job) bool {
		last[j.ID.User] = row(j)
		return false
	})
	return last
}

func grid(known []people.Person, online map[cluster.User]int, load map[cluster.User]*ui.Person, last map[cluster.User]ui.Job) []ui.Person {
	var out []ui.Person
	for _, p := range known {
		row := ui.Person{Name: p.Name, Online: online[p.Name], Disabled: p.Disabled, Visited: p.Visited}
		if l := load[p.Name]; l != nil {
			row.Waiting, row.Running = l.Waiting, l.Running
		}
		if j := last[p.Name]; j.State == jobs.Failed {
			row.Error = j.Reason
		}
		out = append(out, row)
	}
	return out
}

// classWords says what the class does.
func classWords(c *state.Class) string {
	switch {
	case c == nil || policy.ClassMode(c.Mode) == policy.FreeRun:
		return ""
	case policy.ClassMode(c.Mode) == policy.Sprint:
		return fmt.Sprintf("sprint: %d jobs each (%s)", c.N, c.Actor)
	case policy.ClassMode(c.Mode) == policy.WindDown:
		return fmt.Sprintf("wind-down until %s (%s)", time.UnixMilli(c.Until).Format("15:04"), c.Actor)
	}
	return fmt.Sprintf("%s (%s)", c.Mode, c.Actor)
}
