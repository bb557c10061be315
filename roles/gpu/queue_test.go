package gpu_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
)

// queue is the tables and a claim that waits, all in one lock. What a worker
// says is noted.
type queue struct {
	mu      sync.Mutex
	changed chan struct{} // closed and made anew with each change
	jobs    *jobs.Table
	files   *files.Table
	index   uint64
	verbs   []string
	events  []jobs.Event
	workers []models.Worker
	refuse  func(verb string) error
	larger  bool // a GPU with more memory is there
}

func newQueue() *queue {
	return &queue{changed: make(chan struct{}), jobs: jobs.New(), files: files.New()}
}

func (q *queue) stir() {
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *queue) until(ok func() bool) bool {
	late := time.After(patience)
	for {
		q.mu.Lock()
		good, changed := ok(), q.changed
		q.mu.Unlock()
		if good {
			return true
		}
		select {
		case <-changed:
		case <-late:
			return false
		}
	}
}

func (q *queue) log() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.verbs)
}

func (q *queue) apply(c cluster.Command) (any, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.applyLocked(c)
}

func (q *queue) applyLocked(c cluster.Command) (any, error) {
	now := time.Now().UnixMilli()
	mutate, _, err := q.jobs.Plan(c, now)
	if out, ok := c.(*files.PutOutputs); ok {
		lease := jobs.Lease{Job: jobs.ID{User: out.User, Prompt: out.Prompt}, Worker: out.Worker, Epoch: out.Epoch}
		if err := q.jobs.CheckLease(lease); err != nil {
			return nil, err
		}
		mutate, _, err = q.files.Plan(c, now)
	}
	if err != nil {
		return nil, err
	}
	q.index++
	answer := mutate()
	q.stir()
	return answer, nil
}

// say notes a verb and applies its command.
func (q *queue) say(verb string, c cluster.Command) (any, uint64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refuse != nil {
		if err := q.refuse(verb); err != nil {
			return nil, 0, err
		}
	}
	q.verbs = append(q.verbs, verb)
	q.stir()
	answer, err := q.applyLocked(c)
	return answer, q.index, err
}

func (q *queue) Claim(ctx context.Context, c jobs.Claim) (jobs.Assignment, error) {
	for {
		q.mu.Lock()
		var id *jobs.ID
		q.jobs.Waiting(func(j *jobs.Job) bool {
			if j.State == jobs.Pending && c.Can(j) {
				id = &jobs.ID{User: j.ID.User, Prompt: j.ID.Prompt}
			}
			return id == nil
		})
		if id != nil {
			row, _ := q.jobs.Job(*id)
			l := jobs.Lease{Job: *id, Worker: c.Worker, Epoch: row.Epoch + 1}
			_, err := q.applyLocked(&jobs.Assign{Lease: l})
			row, _ = q.jobs.Job(*id)
			q.verbs = append(q.verbs, "claim")
			q.mu.Unlock()
			return jobs.Assignment{Lease: l, Row: row}, err
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return jobs.Assignment{}, context.Cause(ctx)
		}
	}
}

func (q *queue) Started(_ context.Context, l jobs.Lease) (uint64, error) {
	_, index, err := q.say("started", &jobs.Started{Lease: l})
	return index, err
}

func (q *queue) verdict(l jobs.Lease) jobs.Verdict {
	row, ok := q.jobs.Job(l.Job)
	switch {
	case !ok, row.Epoch != l.Epoch, !row.State.Active():
		return jobs.Lost
	case row.State == jobs.Cancelling:
		return jobs.Stop
	}
	return jobs.Go
}

func (q *queue) Renew(_ context.Context, l jobs.Lease) (jobs.Verdict, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.verbs = append(q.verbs, "renew")
	q.stir()
	return q.verdict(l), nil
}

func (q *queue) await(ctx context.Context, l jobs.Lease) (jobs.Verdict, error) {
	for {
		q.mu.Lock()
		v, changed := q.verdict(l), q.changed
		q.mu.Unlock()
		if v != jobs.Go {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (q *queue) GpuDone(_ context.Context, l jobs.Lease) error {
	_, _, err := q.say("gpudone", &jobs.GpuDone{Lease: l})
	return err
}

func (q *queue) Outputs(_ context.Context, l jobs.Lease, out []files.NewOutput) ([]files.Place, uint64, error) {
	answer, index, err := q.say("outputs", &files.PutOutputs{User: l.Job.User, Prompt: l.Job.Prompt, Worker: l.Worker, Epoch: l.Epoch, Outputs: out})
	if err != nil {
		return nil, 0, err
	}
	return answer.([]files.Place), index, nil
}

func (q *queue) Finish(_ context.Context, f jobs.Finish) error {
	_, _, err := q.say("finish "+string(f.State), &f)
	return err
}

func (q *queue) Requeue(_ context.Context, l jobs.Lease, strike bool, reason string) error {
	_, _, err := q.say(fmt.Sprintf("requeue strike=%v %s", strike, reason), &jobs.Requeue{Lease: l, Strike: strike, Reason: reason})
	return err
}

func (q *queue) OutOfMemory(_ context.Context, l jobs.Lease, m jobs.Memory) (bool, error) {
	q.mu.Lock()
	larger := q.larger
	q.mu.Unlock()
	if !larger {
		return false, nil
	}
	_, _, err := q.say("out of memory", &jobs.Requeue{Lease: l, Strike: true, Reason: "too large", NoRoom: &m})
	return err == nil, err
}

func (q *queue) Hold(_ context.Context, l jobs.Lease, reason string) error {
	_, _, err := q.say("hold "+reason, &jobs.Hold{Lease: l, Reason: reason})
	return err
}

func (q *queue) publish(e jobs.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.events = append(q.events, e)
	q.stir()
}

func (q *queue) register(_ context.Context, w models.Worker) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.workers = append(q.workers, w)
	q.stir()
	return nil
}

// types lists the published events of a job but for those that may be dropped.
func (q *queue) types(id jobs.ID) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []string
	for _, e := range q.events {
		if e.Job == id && !e.Droppable {
			out = append(out, e.Type)
		}
	}
	return out
}

// told returns the events of a type.
func (q *queue) told(id jobs.ID, typ string) []jobs.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []jobs.Event
	for _, e := range q.events {
		if e.Job == id && e.Type == typ {
			out = append(out, e)
		}
	}
	return out
}

// said lists the verbs but for renewals. That the GPU is free may be said before
// or after the last results are entered: afterwards, here.
func (q *queue) said() []string {
	out := slices.DeleteFunc(q.log(), func(v string) bool { return v == "renew" })
	for i := 1; i < len(out); i++ {
		if out[i-1] == "gpudone" && out[i] == "outputs" {
			out[i-1], out[i] = out[i], out[i-1]
		}
	}
	return out
}
