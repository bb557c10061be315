package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/roles/gpu"
	"github.com/ahelme/comfyume/roles/gpu/comfyui"
	"github.com/ahelme/comfyume/ui"
)

// view is what the dashboard of a core node shows: the tables, and beside them
// what each node reports of itself (open pages, workers, progress, health).
type view struct {
	swarm  *swarm
	now    func() time.Time
	ledger ledger
	// retry queues a job again at a gateway, as its user did.
	retry func(ctx context.Context, id jobs.ID) (jobs.ID, error)
	// pass makes a sign-in link or a token.
	pass func(ctx context.Context, u cluster.User, kind ui.PassKind, life time.Duration) (Pass, error)
}

// lack is a template that names what no worker has, or not this one.
type lack struct {
	Template string           `json:"template"`
	What     string           `json:"what"` // the models and classes, in words
	Worker   cluster.WorkerID `json:"worker,omitempty"`
}

var _ ui.Source = (*view)(nil)

// fresh is how old a node's report may be to count as what is so now.
const fresh = 10 * time.Second

// View reads everything once. It waits for nothing but the tables' lock.
func (v *view) View() ui.View {
	now := v.now()
	out := ui.View{Schema: ui.SchemaVersion, Now: now.UnixMilli()}
	v.swarm.said() // this node's own report, as it is now
	all := v.swarm.reports.list()
	log := v.logStatus(all)
	m := v.swarm.core.machine
	out.Head = v.head(log, all)
	out.Nodes = v.nodes(log, all)
	out.Workers = v.workers(all)
	out.Log = v.log(log)
	out.Backups = v.backups(all)
	online := map[cluster.User]int{}
	up := false
	for _, h := range all {
		if now.Sub(h.at) > fresh {
			continue
		}
		for u, n := range h.Sockets {
			online[u] += n
		}
		up = up || slices.ContainsFunc(h.Workers, answers)
	}
	var known []people.Person
	m.People(func(t *people.Table) { known = t.People() })
	var last map[cluster.User]ui.Job
	var load map[cluster.User]*ui.Person
	forecast := v.swarm.forecast()
	m.Jobs(func(t *jobs.Table) {
		c := t.Count()
		out.Counts = ui.Counts{Waiting: c.Waiting, Running: c.Running, Done: c.Done, Failed: c.Failed, Cancelled: c.Cancelled}
		out.Queue, out.More, load = queued(t, known, out.Workers, up, forecast)
		for _, j := range t.Recent(ui.MaxRecent, nil) {
			out.Recent = append(out.Recent, row(&j))
		}
		last = lastEnded(t)
	})
	v.copies(log, out.Queue, out.Recent)
	price := rates(all)
	priced(price, out.Queue, out.Recent)
	out.People = grid(known, online, load, last)
	used := v.ledger.people(func(f func(*jobs.Job) bool) { m.Jobs(func(t *jobs.Table) { t.Rows(f) }) }, price, now)
	disks := v.ledger.disks(m.Files, out.People, now)
	set := m.Settings()
	for i := range out.People {
		p := &out.People[i]
		p.Used, p.Disk, p.Bound = used[p.Name], disks[p.Name], set.Quota(p.Name).Bytes
	}
	out.Counts.People = len(out.People)
	for _, p := range out.People {
		if p.Online > 0 {
			out.Counts.Online++
		}
	}
	out.Counts.AtRisk, _ = atRisk(all, now)
	out.Attention = v.attention(log, all, out, last)
	for _, a := range m.Audits(ui.MaxAudit) {
		out.Audit = append(out.Audit, ui.Act{At: a.At, Actor: a.Actor, What: a.What})
	}
	return out
}

// logStatus is this node's view of the log, completed by what only the leader
// knows: how far the others are.
func (v *view) logStatus(all []heardOf) consensus.Status {
	s := v.swarm.core.raft.Status()
	if s.Leader == v.swarm.self.ID || s.Leader == "" {
		return s
	}
	for _, h := range all {
		if h.Member.ID != s.Leader || h.Log == nil || h.Log.Lineage != s.Lineage || v.now().Sub(h.at) > fresh {
			continue
		}
		s.Copied, s.Last = h.Log.Copied, max(s.Last, h.Log.Last)
		if len(h.Log.Servers) > 0 {
			s.Servers = h.Log.Servers
		}
	}
	return s
}

func (v *view) head(s consensus.Status, all []heardOf) ui.Head {
	set := v.swarm.core.machine.Settings()
	h := ui.Head{
		Node: v.swarm.self.Name, Version: v.swarm.self.Version, Term: s.Term, Voters: s.Voters(), Leader: v.name(s.Leader), Level: v.swarm.core.machine.Level(),
		Mode: string(cmp.Or(policy.Mode(set.Mode), policy.Default)), Survives: v.survives(s), ReadOnly: v.readOnly(s),
	}
	h.Class = classWords(set.Class)
	for _, p := range set.Pauses {
		h.Pauses = append(h.Pauses, ui.Pause{Scope: string(p.Scope), Actor: p.Actor, Why: p.Why, At: p.At})
		h.Paused = h.Paused || p.Scope == "all"
	}
	for _, r := range all {
		if r.Member.ID == v.swarm.self.ID {
			h.Ready, h.Degraded = r.Health.Ready, r.Health.Degraded
		}
	}
	return h
}

// backups are all places of backups, as the nodes that keep them there see them.
func (v *view) backups(all []heardOf) (out []ui.Backup) {
	had := map[string]bool{}
	for _, h := range all {
		for _, b := range h.Backups {
			b.Node = h.Member.Name
			if v.now().Sub(h.at) > fresh {
				b.Problem = "node " + b.Node + " is silent"
			}
			if had[b.Place] { // two machines keep them there
				b.Place += " (" + b.Node + ")"
			}
			had[b.Place] = true
			out = append(out, b)
		}
	}
	return out
}

// name is how people call a node.
func (v *view) name(id cluster.NodeID) string {
	switch id {
	case "":
		return ""
	case v.swarm.self.ID:
		return v.swarm.self.Name
	}
	if n, ok := v.swarm.core.machine.Node(id); ok {
		return n.Name
	}
	return string(id)
}

// readOnly is why nothing can be changed, in a sentence.
func (v *view) readOnly(s consensus.Status) string {
	switch {
	case s.Lineage.Cluster == "":
		return cmp.Or(v.swarm.core.forming.waitsFor(), "This node is not part of the workshop's table yet.")
	case s.Stopped != "":
		return s.Stopped
	case s.Leader == "":
		return "There is no leader, so nothing can be queued or changed: too few of the nodes that vote answer. Everything can be read."
	}
	return ""
}

// survives says what the workshop would survive now.
func (v *view) survives(s consensus.Status) string {
	var voters, silent, standby []string
	for _, srv := range s.Servers {
		away := !v.swarm.here(srv.Node)
		switch {
		case srv.Voter && away:
			silent = append(silent, v.name(srv.Node))
		case srv.Voter:
			voters = append(voters, v.name(srv.Node))
		case v.swarm.core.membership.holder(srv.Node) && !away:
			standby = append(standby, v.name(srv.Node))
		}
	}
	switch n := len(voters) + len(silent); {
	case n == 0:
		return ""
	case n == 1 && len(silent) == 1:
		return fmt.Sprintf("%s alone may accept changes and does not answer. If it is gone for good: raft promote on a stand-by.", silent[0])
	case n == 1 && len(standby) > 0:
		return fmt.Sprintf("%s votes, %s stands by: the table survives any kill or power cut, and the loss of %s's machine for all that was acknowledged with two copies (then: raft promote on %s).", voters[0], standby[0], voters[0], standby[0])
	case n == 1:
		return fmt.Sprintf("One machine (%s) holds the table: it survives any kill or power cut as long as that machine's disk lives, and not the loss of the machine.", voters[0])
	case n == 2:
		return "Two nodes vote: losing either stops all changes. This is a moment of a change; it becomes one or three by itself."
	case len(silent) >= (n+1)/2:
		return fmt.Sprintf("%d nodes vote and %s do not answer: nothing can be changed until one of them is back, and nothing that was accepted is lost.", n, strings.Join(silent, " and "))
	case len(silent) > 0:
		return fmt.Sprintf("%d nodes vote and %s does not answer: the table is safe, and one more loss stops all changes.", n, silent[0])
	}
	return fmt.Sprintf("%d nodes vote: the table survives the loss of any one machine.", len(voters))
}

// copies marks the jobs whose last change is not known to be on two machines.
func (v *view) copies(s consensus.Status, lists ...[]ui.Job) {
	if s.Copied == 0 {
		return
	}
	for _, list := range lists {
		for i := range list {
			list[i].Copies = 2
			if v.swarm.core.machine.Touched(jobs.ID{User: list[i].User, Prompt: list[i].Prompt}) > s.Copied {
				list[i].Copies = 1
			}
		}
	}
}

// answers reports whether a worker can take jobs, now or next.
func answers(w ui.Worker) bool {
	switch w.State {
	case workerGone, workerSilent, workerNone:
		return false
	}
	switch comfyui.Phase(w.State) {
	case comfyui.Booting, comfyui.Importing, comfyui.Again, comfyui.Looping, comfyui.Stopping, comfyui.Stopped:
		return false
	}
	return gpu.Phase(w.State).Takes()
}

// States of workers beside the gpu role's own phases and those of a ComfyUI that
// was started here.
const (
	workerGone   = "not here"    // only the catalogue knows it
	workerSilent = "silent"      // its node has not reported for a while
	workerNone   = "unavailable" // its node has no GPU, or cannot start ComfyUI
)

// workers joins what the nodes report of their workers with the catalogue.
func (v *view) workers(all []heardOf) []ui.Worker {
	var live []ui.Worker
	left := func(id cluster.NodeID) bool { n, ok := v.swarm.core.machine.Node(id); return ok && n.Left > 0 }
	for _, h := range all {
		if left(h.Member.ID) && v.now().Sub(h.at) > fresh {
			continue
		}
		for _, w := range h.Workers {
			w.Node = h.Member.Name
			if v.now().Sub(h.at) > fresh {
				w.State, w.Since, w.Job, w.Percent, w.Detail = workerSilent, h.at.UnixMilli(), nil, -1, "its node has not been heard of"
			}
			live = append(live, w)
		}
	}
	// The names are looked up outside: asked for the table again while it is being
	// read, this would wait behind an entry that waits for this.
	var known []models.Worker
	v.swarm.core.machine.Models(func(t *models.Table) { known = t.Workers() })
	for _, w := range known {
		i := slices.IndexFunc(live, func(l ui.Worker) bool { return l.ID == w.ID })
		switch {
		case i < 0 && left(w.Node):
			continue
		case i < 0:
			live = append(live, ui.Worker{ID: w.ID, Node: v.name(w.Node), State: workerGone, Since: w.Changed, Percent: -1, Detail: "known from before"})
			i = len(live) - 1
		}
		live[i].ComfyUI, live[i].Device, live[i].VRAM = cmp.Or(live[i].ComfyUI, w.Version), cmp.Or(live[i].Device, w.Device), cmp.Or(live[i].VRAM, w.VRAM)
	}
	hourAgo := v.now().Add(-time.Hour).UnixMilli()
	v.swarm.core.machine.Jobs(func(t *jobs.Table) {
		for i := range live {
			w := &live[i]
			if load := t.Loaded(w.ID); load != "" {
				w.Models = strings.Split(load, "\n")
			}
			n, lost := t.Swaps(w.ID, hourAgo)
			w.Swaps, w.Loading = n, int(lost/1000)
		}
	})
	for _, l := range lacksSaid(all, v.now()) {
		if i := slices.IndexFunc(live, func(w ui.Worker) bool { return w.ID == l.Worker }); i >= 0 {
			live[i].Lacks = append(live[i].Lacks, l.Template+": "+l.What)
		}
	}
	slices.SortFunc(live, func(a, b ui.Worker) int { return cmp.Compare(a.ID, b.ID) })
	return live
}

// far is how far a job is, as the worker that runs it says.
func far(workers []ui.Worker, id jobs.ID) (percent int, node string) {
	for _, w := range workers {
		if w.Job != nil && *w.Job == id {
			return w.Percent, w.At
		}
	}
	return -1, ""
}
