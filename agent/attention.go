package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/ui"
)

// Bounds of Attention.
const (
	maxFailed = 10               // people named
	recent    = 10 * time.Minute // how long a refused request stays
)

// attention is what a person should look at, the worst first.
func (v *view) attention(s consensus.Status, all []heardOf, seen ui.View, last map[cluster.User]ui.Job) []ui.Problem {
	var out []ui.Problem
	if err := v.swarm.core.machine.Halted(); err != nil {
		out = append(out, ui.Problem{Level: ui.Fail, What: err.Error(), Cure: "install the version of the other nodes here"})
	}
	if seen.Head.ReadOnly != "" {
		out = append(out, ui.Problem{Level: ui.Fail, What: seen.Head.ReadOnly, Cure: v.readOnlyCure(s)})
	}
	out = append(out, v.nodeProblems(all, seen.Nodes)...)
	out = append(out, heldUp(seen)...)
	out = append(out, v.refused(all)...)
	failed := 0
	for _, p := range seen.People {
		if p.Error == "" {
			continue
		}
		if failed++; failed <= maxFailed {
			out = append(out, ui.Problem{Level: ui.Warn, User: p.Name, What: "last job failed: " + p.Error, Cure: last[p.Name].Cure, Since: last[p.Name].Ended})
		}
	}
	if failed > maxFailed {
		out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("%d more people's last job failed", failed-maxFailed), Cure: "see People"})
	}
	out = append(out, otherFrontend(all, seen.Workers)...)
	return append(out, lacking(all, v.now())...)
}

// otherFrontend names workers whose ComfyUI is made for another frontend than
// participants get: pages and node packs may not fit each other.
func otherFrontend(all []heardOf, workers []ui.Worker) (out []ui.Problem) {
	for _, h := range all {
		if h.Frontend == "" {
			continue
		}
		for _, w := range workers {
			if w.Frontend != "" && w.Frontend != h.Frontend && answers(w) {
				out = append(out, ui.Problem{Level: ui.Fail, What: fmt.Sprintf("ComfyUI %s of worker %s is made for frontend %s, and participants get %s", w.ComfyUI, w.ID, w.Frontend, h.Frontend), Cure: "give gateways --frontend-version=" + w.Frontend + ", or workers the ComfyUI of " + h.Frontend})
			}
		}
		return out
	}
	return out
}

func (v *view) readOnlyCure(s consensus.Status) string {
	switch {
	case s.Full:
		return "free space on that disk; it goes on by itself"
	case s.Lineage.Cluster == "":
		return ""
	}
	var silent []string
	for _, srv := range s.Servers {
		if srv.Voter && !v.swarm.here(srv.Node) {
			silent = append(silent, v.name(srv.Node))
		}
	}
	if len(silent) == 0 {
		return "it comes back by itself within seconds, or see the log"
	}
	verb := "promote"
	if slices.ContainsFunc(s.Servers, func(srv consensus.Server) bool { return srv.Node == v.swarm.self.ID && srv.Voter }) {
		verb = "recover"
	}
	return fmt.Sprintf("start %s; if it is gone for good: comfyume-agent raft %s here", strings.Join(silent, " and "), verb)
}

// nodeProblems is what the nodes report, and what they do not.
func (v *view) nodeProblems(all []heardOf, nodes []ui.Node) []ui.Problem {
	var out []ui.Problem
	for _, h := range all {
		if v.now().Sub(h.at) > fresh {
			continue
		}
		for _, p := range h.Problems {
			if h.Member.ID != v.swarm.self.ID {
				p.What = h.Member.Name + ": " + p.What
			}
			out = append(out, p)
		}
		if h.Waits != "" && h.Member.ID != v.swarm.self.ID {
			out = append(out, ui.Problem{Level: ui.Warn, What: h.Member.Name + " is not part of the table: " + h.Waits})
		}
		if h.Missing > 0 {
			out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("%s lacks %d files that the table names: they are on one machine only, or on their way", h.Member.Name, h.Missing)})
		}
	}
	if files, keepers := atRisk(all, v.now()); files > 0 && keepers > 1 { // with one machine that is said of it as a whole
		out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("files at risk, which only one of the machines that answer has: %d", files), Cure: "they are copied as soon as another machine can; see comfyume-agent disk"})
	}
	for _, n := range nodes {
		if slices.Contains([]string{"dead", stateSilent}, n.State) {
			out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("node %s (%s) does not answer", n.Name, joinRoles(n.Roles)), Cure: "start it; if it is gone for good: comfyume-agent node forget " + n.Name, Since: n.Since})
		}
		if n.Level > v.swarm.core.machine.Level() {
			out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("node %s runs %s and can more than the workshop has agreed on (level %d of %d)", n.Name, n.Version, v.swarm.core.machine.Level(), n.Level), Cure: "upgrade the other nodes; it is used as soon as all can"})
		}
	}
	return append(out, skew(nodes)...)
}

// skew names nodes of another version than the rest.
func skew(nodes []ui.Node) []ui.Problem {
	versions := map[string][]string{}
	for _, n := range nodes {
		if n.State == "alive" && n.Version != "" {
			versions[n.Version] = append(versions[n.Version], n.Name)
		}
	}
	if len(versions) < 2 {
		return nil
	}
	var parts []string
	for v, names := range versions {
		parts = append(parts, fmt.Sprintf("%s runs %s", strings.Join(names, ", "), v))
	}
	slices.Sort(parts)
	return []ui.Problem{{Level: ui.Warn, What: "the nodes are of different versions: " + strings.Join(parts, "; "), Cure: "upgrade the older ones, one after the other"}}
}

// heldUp says what people hold up, and what is on one machine only.
func heldUp(seen ui.View) []ui.Problem {
	var out []ui.Problem
	for _, p := range seen.Head.Pauses {
		what := fmt.Sprintf("%s is paused by %s", p.Scope, p.Actor)
		if p.Scope == string(state.PauseAll) {
			what = "the queue is paused by " + p.Actor
		}
		if p.Why != "" {
			what += ": " + p.Why
		}
		cure := "comfyume-agent queue resume"
		if p.Scope != string(state.PauseAll) {
			cure += " " + p.Scope
		}
		out = append(out, ui.Problem{Level: ui.Warn, What: what, Cure: cure, Since: p.At})
	}
	for _, n := range seen.Nodes {
		if n.Drained != "" {
			out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("node %s is drained by %s: it gets no new jobs", n.Name, n.Drained), Cure: "comfyume-agent node drain --undo " + n.Name})
		}
	}
	single := 0
	for _, j := range seen.Queue {
		if j.Copies == 1 {
			single++
		}
	}
	if single > 0 {
		out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("%d queued jobs are on one machine only: the stand-by has not caught up", single), Cure: "see raft ls"})
	}
	return out
}

// refused lists people whose last request did not go well a short while ago.
func (v *view) refused(all []heardOf) []ui.Problem {
	var out []ui.Problem
	for _, h := range all {
		for _, u := range sortedUsers(h.Troubles) {
			t := h.Troubles[u]
			if v.now().Sub(t.At) < recent {
				out = append(out, ui.Problem{Level: ui.Warn, User: u, What: fmt.Sprintf("%s %s was answered %d: %s", t.Method, t.Path, t.Status, t.Text), Cure: t.Cure, Since: t.At.UnixMilli()})
			}
		}
	}
	return out
}

// lacksSaid is what gateways say of the templates. They see the same catalogue, so
// the first that reports speaks for all.
func lacksSaid(all []heardOf, now time.Time) []lack {
	for _, h := range all {
		if len(h.Lacks) > 0 && now.Sub(h.at) <= fresh {
			return h.Lacks
		}
	}
	return nil
}

// lacking names the templates that would not run on any worker. What one lacks and
// another has stands beside that worker.
func lacking(all []heardOf, now time.Time) []ui.Problem {
	var out []ui.Problem
	for _, l := range lacksSaid(all, now) {
		if l.Worker == "" {
			out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("template %s lacks %s", l.Template, l.What), Cure: "put them where ComfyUI finds them; the list is read again every few minutes"})
		}
	}
	return out
}
