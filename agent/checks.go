package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
)

// checks are the things that health means on this node.
func (a *Agent) checks() []check {
	out := []check{}
	s := a.swarm
	if s.core != nil {
		out = append(out, checkCommit(s.core.propose, s.core.waits))
	} else {
		out = append(out, checkEntered(s.guest))
	}
	if a.cfg.Has(cluster.Gateway) {
		out = append(out, checkFrontend(a.roles.verifyFrontend), checkAccounts(s.core.machine.People, a.accounts.prepared))
		for _, s := range a.roles.shelves {
			out = append(out, checkShelf(s))
		}
	}
	if b := a.backups.Load(); b != nil {
		out = append(out, checkBackups(b))
	}
	if s.core != nil && s.core.scrub != nil {
		out = append(out, checkScrub(s.core.scrub.Status, time.Now))
	}
	if a.certificate != nil {
		out = append(out, checkCertificate(a.certificate), checkRenewal(a.certificate))
	}
	out = append(out, checkDisk(a.disk.look))
	switch {
	case a.cfg.Has(cluster.GPU):
		out = append(out, checkComfyUI(a.roles.answering))
	case a.cfg.Has(cluster.Gateway):
		out = append(out, checkComfyUI(s.answering))
	}
	return out
}

// answering counts the workers of all nodes that can take a job.
func (s *swarm) answering() (up, all int, why string) {
	for _, h := range s.reports.list() {
		for _, w := range h.Workers {
			all++
			switch {
			case time.Since(h.at) > fresh:
				why = "node " + h.Member.Name + " is silent"
			case answers(w):
				up++
			default:
				why = w.Detail
			}
		}
	}
	return up, all, why
}

// checkEntered asks whether the workshop knows this node.
func checkEntered(g *guest) check {
	return check{
		name: "joined", required: true, every: 3 * time.Second, fresh: 60 * time.Second,
		cure: "start a node with the role queue; check that both are on the same tailnet and that this one's key has tag:comfyume-gpu",
		do: func(context.Context) (string, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			switch {
			case g.trouble != "":
				return "", cluster.Errorf(cluster.Unavailable, "%s", g.trouble)
			case g.entered.IsZero():
				return "", cluster.Errorf(cluster.Unavailable, "this node has not joined the workshop yet")
			}
			return "entered as a worker", nil
		},
	}
}

// checkCommit commits a command that changes nothing. It alone proves that a
// participant's job would be accepted and kept.
func checkCommit(p cluster.Proposer, waits func() string) check {
	return check{
		name: "commit", required: true, every: 3 * time.Second, fresh: 10 * time.Second,
		cure: "see comfyume-agent raft ls: which of the nodes that vote do not answer? See the log for disk errors",
		do: func(ctx context.Context) (string, error) {
			if why := waits(); why != "" {
				return "", cluster.Errorf(cluster.NoLeader, "%s", why)
			}
			begin := time.Now()
			out, err := p.Propose(ctx, &state.Noop{})
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("entry %d in %s", out.Index, time.Since(begin).Round(time.Millisecond)), nil
		},
	}
}

// checkFrontend asks whether the files that participants load are whole.
func checkFrontend(verify func() (string, error)) check {
	return check{
		name: "frontend", required: true, every: 5 * time.Second, fresh: 20 * time.Second,
		cure: "restart this agent: it unpacks the frontend again; without internet give --frontend-wheel",
		do:   func(context.Context) (string, error) { return verify() },
	}
}

// checkShelf tells what a page can do without and does not have.
func checkShelf(s shelf) check {
	return check{
		name: s.name, every: 10 * time.Second, fresh: time.Minute,
		cure: "put the wheel that is named there into that folder and restart this agent, or say --" + s.flag + "=false",
		do: func(context.Context) (string, error) {
			if err := s.Err(); err != nil {
				return "", err
			}
			if n := s.Len(); n > 0 {
				return fmt.Sprintf("%d files", n), nil
			}
			return "being fetched", nil
		},
	}
}

// checkAccounts asks whether anybody could sign in.
func checkAccounts(table func(func(*people.Table)), prepared func() error) check {
	return check{
		name: "accounts", required: true, every: 2 * time.Second, fresh: 10 * time.Second,
		cure: "add people: comfyume-agent user add NAME, or let one in again: comfyume-agent user disable NAME --undo",
		do: func(context.Context) (string, error) {
			if err := prepared(); err != nil {
				return "", err
			}
			var all, out int
			table(func(t *people.Table) {
				for _, p := range t.People() {
					all++
					if p.Disabled {
						out++
					}
				}
			})
			if all == out {
				return "", cluster.Errorf(cluster.Unavailable, "nobody may sign in: %d accounts, %d shut out", all, out)
			}
			return fmt.Sprintf("%d may sign in, %d shut out", all-out, out), nil
		},
	}
}

// checkComfyUI asks whether a job would find a worker. Without one the door
// stays open: editing works and jobs wait.
func checkComfyUI(answering func() (up, all int, why string)) check {
	return check{
		name: "comfyui", every: time.Second, fresh: 10 * time.Second,
		cure: "start ComfyUI, or check --comfyui-url; jobs wait until it answers",
		do: func(context.Context) (string, error) {
			up, all, why := answering()
			switch {
			case all == 0:
				return "", cluster.Errorf(cluster.Unavailable, "no worker is known: jobs wait until a GPU joins")
			case up == 0:
				return "", cluster.Errorf(cluster.Unavailable, "no ComfyUI answers (%d known): %s", all, why)
			}
			return fmt.Sprintf("%d of %d workers answer", up, all), nil
		},
	}
}
