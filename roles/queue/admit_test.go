package queue_test

import (
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

func nilLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// admit submits through the steward and returns what the gateway gets.
func (p *stage) admit(c cluster.Command) (jobs.Accepted, error) {
	p.t.Helper()
	out, err := p.s.Admit().Propose(p.t.Context(), c)
	synctest.Wait()
	if err != nil {
		return jobs.Accepted{}, err
	}
	var acc jobs.Accepted
	if err := out.Decode(&acc); err != nil || out.Index == 0 {
		p.t.Fatalf("answer at %d: %v", out.Index, err)
	}
	return acc, nil
}

// accepts submits and checks the answer's number.
func (p *stage) accepts(c cluster.Command, number int64) {
	p.t.Helper()
	acc, err := p.admit(c)
	if err != nil || acc.Number != number || acc.Seq == 0 {
		p.t.Fatalf("answer %+v, %v, want number %d", acc, err, number)
	}
}

func TestDispatchInOneEntry(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		before := p.log.count()
		p.accepts(submit("p1"), 1)
		c.gets("p1")
		if n := p.log.count() - before; n != 1 {
			t.Errorf("%d entries, want 1", n)
		}
		p.is("p1", "assigned a 1")
		d := p.claim("b")
		p.accepts(*submit("p2"), 2) // a value is a command too
		d.gets("p2")
	})
}

func TestAdmitWithoutAnIdleWorker(t *testing.T) {
	play(t, func(p *stage) {
		p.accepts(submit("p1"), 1)
		p.is("p1", "pending  0")
		c := p.claim("a", "Y")
		c.gets("p1")
		c = p.claim("b", "Y")
		p.accepts(submit("p2", "X"), 2)
		p.is("p2", "pending  0")
		p.accepts(submit("p3", "Y"), 3) // p2 is not for b, so p3 jumps nobody's place
		c.gets("p3")
	})
}

func TestAdmitDoesNotOvertake(t *testing.T) {
	play(t, func(p *stage) {
		p.log.ahead(func(cmds []cluster.Command) error {
			if _, ok := cmds[0].(*jobs.Assign); ok {
				return cluster.Errorf(cluster.Unavailable, "not now")
			}
			return nil
		})
		c := p.claim("a")
		p.do(submit("p1"))
		p.accepts(submit("p2"), 2)
		p.is("p2", "pending  0")
		p.log.ahead(nil)
		p.pass(2e9)
		c.gets("p1")
	})
}

func TestAdmitOnAFollower(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		p.leads.Store(false)
		p.accepts(submit("p1"), 1)
		c.waits()
		p.is("p1", "pending  0")
	})
}

func TestRefusedSubmitGetsItsOwnError(t *testing.T) {
	tests := []struct {
		name string
		make func(p *stage) *jobs.Submit
		want cluster.Code
	}{
		{"quota", func(p *stage) *jobs.Submit {
			p.do(submit("p0", "Nobody"))
			c := submit("p1")
			c.MaxWaiting = 1
			return c
		}, cluster.Quota},
		{"conflict", func(p *stage) *jobs.Submit {
			p.do(submit("p1", "Nobody"))
			c := submit("p1")
			c.BodyHash = "another"
			return c
		}, cluster.Conflict},
		{"invalid", func(*stage) *jobs.Submit { return submit("../p1") }, cluster.Invalid},
		{"too large", func(*stage) *jobs.Submit {
			c := submit("p1")
			c.Body = make([]byte, jobs.MaxBody+1)
			return c
		}, cluster.TooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(p *stage) {
				c := p.claim("a", "Y")
				if _, err := p.admit(tt.make(p)); cluster.CodeOf(err) != tt.want {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				c.waits()
				p.accepts(submit("next", "Y"), p.submits()+1)
				c.gets("next") // the claim was given back
			})
		})
	}
}

// submits counts user001's rows.
func (p *stage) submits() int64 {
	var n int64
	p.machine.Jobs(func(t *jobs.Table) { n = int64(len(t.Open("user001"))) })
	return n
}

// TestRivalTakesTheID has another body commit under the same id between the
// look and the entry: the assignment goes through, the Submit does not.
func TestRivalTakesTheID(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		rival := submit("p1")
		rival.BodyHash = "rival"
		var once atomic.Bool
		p.log.ahead(func(cmds []cluster.Command) error {
			if len(cmds) == 2 && once.CompareAndSwap(false, true) {
				if _, err := p.log.Propose(t.Context(), rival); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		if _, err := p.admit(submit("p1")); cluster.CodeOf(err) != cluster.Conflict {
			t.Errorf("got %v, want conflict", err)
		}
		c.gets("p1") // the rival's, which is a job like any other
	})
}

func TestSameSubmitAgain(t *testing.T) {
	play(t, func(p *stage) {
		p.claim("a").p.accepts(submit("p1"), 1)
		b := p.claim("b")
		acc, err := p.admit(submit("p1"))
		if err != nil || acc.Number != 1 || !acc.Replay {
			t.Errorf("got %+v, %v, want the first answer", acc, err)
		}
		b.waits()
	})
}

// TestSubmitWhoseAnswerWasLost has the entry commit and the call fail: the
// gateway gets the answer and the worker the job.
func TestSubmitWhoseAnswerWasLost(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		p.log.spoil(func(cmds []cluster.Command) error {
			if len(cmds) == 2 {
				return cluster.Errorf(cluster.Unavailable, "no answer")
			}
			return nil
		})
		p.accepts(submit("p1"), 1)
		c.gets("p1")
	})
}

func TestAdmitPassesOtherCommandsOn(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		if _, err := p.s.Admit().Propose(t.Context(), submit("p1"), submit("p2")); err != nil {
			t.Fatal(err)
		}
		c.gets("p1")
		out, err := p.s.Admit().Propose(t.Context(), &jobs.Cancel{IDs: []jobs.ID{id("p2")}})
		var touched jobs.Touched
		if err != nil || out.Decode(&touched) != nil || len(touched.IDs) != 1 {
			t.Errorf("got %+v, %v", touched, err)
		}
	})
}
