package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// keepSecrets is how long a job's tokens are kept; they are short-lived anyway.
const keepSecrets = 12 * time.Hour

// maxSecrets bounds the jobs whose tokens are kept.
const maxSecrets = 10_000

// secrets holds users' tokens in memory and nowhere else: they are in no log,
// no table and no file. If this process ends, their jobs wait for the user.
type secrets struct {
	now  func() time.Time
	mu   sync.Mutex
	jobs map[jobs.ID]secret
}

type secret struct {
	tokens map[string]string
	until  time.Time
}

func newSecrets(now func() time.Time) *secrets {
	return &secrets{now: now, jobs: map[jobs.ID]secret{}}
}

func (s *secrets) put(id jobs.ID, tokens map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if len(s.jobs) >= maxSecrets {
		for k, v := range s.jobs {
			if now.After(v.until) {
				delete(s.jobs, k)
			}
		}
	}
	if len(s.jobs) < maxSecrets {
		s.jobs[id] = secret{tokens, now.Add(keepSecrets)}
	}
}

func (s *secrets) drop(id jobs.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs, id)
}

// Secrets returns the tokens that came with a job, for its worker.
func (g *Gateway) Secrets(_ context.Context, id jobs.ID) (map[string]string, bool) {
	g.secrets.mu.Lock()
	defer g.secrets.mu.Unlock()
	s, ok := g.secrets.jobs[id]
	if !ok || g.cfg.Now().After(s.until) {
		return nil, false
	}
	return s.tokens, true
}

// keepOnlyNeeded forgets the tokens of a submit that was refused, or repeated
// after its job had ended. An error that leaves open whether the job was
// committed keeps them.
func (g *Gateway) keepOnlyNeeded(id jobs.ID, err error) {
	switch cluster.CodeOf(err) {
	case "", cluster.Invalid, cluster.Conflict, cluster.TooLarge, cluster.Quota:
	default:
		return
	}
	needed := false
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		j, ok := t.Job(id)
		needed = ok && !j.State.Ended()
	})
	if !needed {
		g.secrets.drop(id)
	}
}

// release lets a user's held jobs go with the tokens that just came.
func (g *Gateway) release(u cluster.User, tokens map[string]string) {
	var held []jobs.ID
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, j := range t.Open(u) {
			if j.State == jobs.Held {
				held = append(held, j.ID)
			}
		}
	})
	if len(held) == 0 {
		return
	}
	for _, id := range held {
		g.secrets.put(id, tokens)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitWithin)
	defer cancel()
	if _, err := g.cfg.Propose.Propose(ctx, &jobs.Release{User: u, Secrets: g.cfg.Node}); err != nil {
		g.log.Warn("held jobs were not released", "user", u, "err", err)
	}
}
