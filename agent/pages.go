package agent

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// How what a job says finds the pages, wherever they are:
//
//	worker --> Links.Publish --+--> showOwn --> this node's gateway
//	                           +--link--> Receiver --> showRemote --> that node's gateway
//
// A link that comes up, and a gateway that begins to listen, are told first what
// the jobs that run have said so far (stand).

// hear lets this node's pages have the events of jobs.
func (s *swarm) hear(pages func(jobs.Event)) { s.pages.Store(&pages) }

// listening is called when this node's gateway takes events from now on.
func (s *swarm) listening() {
	if s.core != nil && s.core.receiver != nil {
		s.core.receiver.Anew()
	}
}

// stand is what the jobs of this node's workers have said so far.
func (s *swarm) stand() []jobs.Event {
	if of := s.standing.Load(); of != nil {
		return (*of)()
	}
	return nil
}

// show hands an event to this node's pages.
func (s *swarm) show(e jobs.Event) {
	if pages := s.pages.Load(); pages != nil {
		(*pages)(e)
	}
}

// commitWithin is how long an event waits for the commit that it relies on.
const commitWithin = time.Second

// showOwn hands on an event of a worker of this node, once this node's copy of
// the table knows what it relies on.
func (s *swarm) showOwn(e jobs.Event) {
	if s.core == nil {
		return
	}
	if applied, _ := s.core.machine.Applied(); applied < e.Index {
		ctx, cancel := context.WithTimeout(context.Background(), commitWithin)
		defer cancel()
		if s.core.machine.Await(ctx, e.Index) != nil {
			return
		}
	}
	s.show(e)
}

// showRemote hands on an event of another node: of its worker, if that is the
// one that has the job, or of its gateway.
func (s *swarm) showRemote(who peer.Who, e jobs.Event) {
	mine := false
	s.core.machine.Jobs(func(t *jobs.Table) {
		j, ok := t.Job(e.Job)
		switch {
		case !ok:
		case e.Type == jobs.EventHeard:
			mine = who.Core
		default:
			mine = j.Epoch == e.Epoch && who.Holds(j.Worker)
		}
	})
	if mine {
		s.show(e)
	}
}
