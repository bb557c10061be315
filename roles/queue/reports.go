package queue

import (
	"context"
	"fmt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Started commits that the worker has begun executing. The index is the
// commit's: a page may be told of it after applying that.
func (s *Steward) Started(ctx context.Context, l jobs.Lease) (uint64, error) {
	out, err := s.report(ctx, l, &jobs.Started{Lease: l})
	if err != nil {
		return 0, fmt.Errorf("start job: %w", err)
	}
	return out.Index, nil
}

// GpuDone commits that the GPU is free and outputs are being stored.
func (s *Steward) GpuDone(ctx context.Context, l jobs.Lease) error {
	if _, err := s.report(ctx, l, &jobs.GpuDone{Lease: l}); err != nil {
		return fmt.Errorf("free the gpu: %w", err)
	}
	return nil
}

// Outputs enters files of an executed node and returns the user's names for
// them, in the same order, with the index of the commit.
func (s *Steward) Outputs(ctx context.Context, l jobs.Lease, outs []files.NewOutput) ([]files.Place, uint64, error) {
	out, err := s.report(ctx, l, &files.PutOutputs{User: l.Job.User, Prompt: l.Job.Prompt, Worker: l.Worker, Epoch: l.Epoch, Outputs: outs})
	if err != nil {
		return nil, 0, fmt.Errorf("enter outputs: %w", err)
	}
	var places []files.Place
	if err := out.Decode(&places); err != nil {
		return nil, 0, fmt.Errorf("read the outputs' names: %w", err)
	}
	if len(places) != len(outs) {
		return nil, 0, fmt.Errorf("read the outputs' names: %d for %d files", len(places), len(outs))
	}
	return places, out.Index, nil
}

// Finish ends an attempt. The same report again is answered as the first time.
func (s *Steward) Finish(ctx context.Context, f jobs.Finish) error {
	if _, err := s.report(ctx, f.Lease, &f); err != nil {
		return fmt.Errorf("finish job: %w", err)
	}
	return nil
}

// Requeue gives a job back. With strike it counts against the job.
func (s *Steward) Requeue(ctx context.Context, l jobs.Lease, strike bool, reason string) error {
	if _, err := s.report(ctx, l, &jobs.Requeue{Lease: l, Strike: strike, Reason: reason}); err != nil {
		return fmt.Errorf("give job back: %w", err)
	}
	return nil
}

// OutOfMemory puts a job back that was too large for its GPU, if a worker is
// there whose GPU has more; else it returns false and leaves the job where it
// is, to be failed. It counts against the job.
func (s *Steward) OutOfMemory(ctx context.Context, l jobs.Lease, m jobs.Memory) (elsewhere bool, err error) {
	if !s.roomier(l.Job, m) {
		return false, nil
	}
	r := &jobs.Requeue{Lease: l, Strike: true, Reason: "it was too large for the memory of " + m.Device + "; it goes to a GPU with more", NoRoom: &m}
	if _, err := s.report(ctx, l, r); err != nil {
		return false, fmt.Errorf("give job back: %w", err)
	}
	return true, nil
}

// Hold parks a job that cannot begin.
func (s *Steward) Hold(ctx context.Context, l jobs.Lease, reason string) error {
	if _, err := s.report(ctx, l, &jobs.Hold{Lease: l, Reason: reason}); err != nil {
		return fmt.Errorf("hold job: %w", err)
	}
	return nil
}

// report commits what a worker says of its job. Its lease is wound before and
// after, because a commit may take a while and is a sign of life itself.
func (s *Steward) report(ctx context.Context, l jobs.Lease, cmd cluster.Command) (cluster.Outcome, error) {
	s.renew(l)
	out, err := s.propose.Propose(ctx, cmd)
	if err == nil {
		s.renew(l)
	}
	return out, err
}

// Renew says that the worker still has the job, from the moment it was given
// (staging inputs may take longer than a lease). Stop: the user cancelled it.
// Lost: it is not the worker's any more. A cancel reaches the worker with its
// next renewal and in no other way, so a worker renews at least every 2 s.
func (s *Steward) Renew(_ context.Context, l jobs.Lease) (jobs.Verdict, error) {
	if !s.leads() {
		return "", cluster.Errorf(cluster.NoLeader, "this node does not lead; ask the one that does")
	}
	var row jobs.Job
	var found, late bool
	s.jobs.Jobs(func(t *jobs.Table) {
		row, found = t.Job(l.Job)
		late = t.CheckLease(l) == nil && !held(&row, l)
	})
	switch {
	case found && l.Epoch > row.Epoch:
		// The lease is newer than the table here: a new leader that has not applied
		// everything yet. The worker must not lose its job for that.
		return "", cluster.Errorf(cluster.Unavailable, "this node is catching up; ask again")
	case late && s.wasRecalled(l):
		return jobs.Lost, nil
	case late:
		return jobs.Go, nil // it was taken back, and no other has begun: its result still counts
	case !found || !held(&row, l):
		return jobs.Lost, nil
	case row.State == jobs.Cancelling:
		s.renew(l)
		return jobs.Stop, nil
	}
	s.renew(l)
	return jobs.Go, nil
}
