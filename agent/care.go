package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/gpu"
	"github.com/ahelme/comfyume/roles/gpu/comfyui"
	"github.com/ahelme/comfyume/roles/gpu/sensors"
	"github.com/ahelme/comfyume/ui"
)

// The verbs by which a core node looks after the ComfyUIs of any node.
const (
	verbCare  peer.Verb = "gpu/care"
	verbLog   peer.Verb = "gpu/log"
	verbLeave peer.Verb = "gpu/leave"
)

// care is what shall be done with one worker.
type care struct {
	Worker cluster.WorkerID `cbor:"1,keyasint"`
	Do     ui.Verb          `cbor:"2,keyasint"`
	Actor  string           `cbor:"3,keyasint"`
}

// logAsk asks for the newest lines of a worker's ComfyUI.
type logAsk struct {
	Worker cluster.WorkerID `cbor:"1,keyasint"`
	Lines  int              `cbor:"2,keyasint"`
}

// leaveAsk tells a node that it shall give its jobs back after a while.
type leaveAsk struct {
	Within int64  `cbor:"1,keyasint"` // milliseconds
	Undo   bool   `cbor:"2,keyasint"`
	Actor  string `cbor:"3,keyasint"`
}

// serveFleet lets core nodes look after this node's ComfyUIs.
func (r *roles) serveFleet(s *peer.Server) {
	fleet := func() (*fleet, error) {
		if f := r.fleet.Load(); f != nil {
			return f, nil
		}
		return nil, errOpening
	}
	peer.Handle(s, verbCare, peer.CoreOnly, func(ctx context.Context, _ peer.Who, in care) (struct{}, error) {
		f, err := fleet()
		if err == nil {
			err = f.care(ctx, in)
		}
		return struct{}{}, err
	})
	peer.Handle(s, verbLog, peer.CoreOnly, func(_ context.Context, _ peer.Who, in logAsk) (ui.Printed, error) {
		f, err := fleet()
		if err != nil {
			return ui.Printed{}, err
		}
		return f.printed(in)
	})
	peer.Handle(s, verbLeave, peer.CoreOnly, func(_ context.Context, _ peer.Who, in leaveAsk) (struct{}, error) {
		f, err := fleet()
		if err == nil {
			f.leaveWithin(in)
		}
		return struct{}{}, err
	})
}

// care does what a person asks for with a worker.
func (f *fleet) care(ctx context.Context, in care) error {
	w, err := f.find(in.Worker)
	if err != nil {
		return err
	}
	f.log.Info("asked for by a person", "worker", w.id, "what", in.Do, "actor", in.Actor)
	switch in.Do {
	case ui.FreeWorker:
		if w.gpu.Busy() {
			return cluster.Errorf(cluster.Conflict, "worker %s runs a job: free its memory when that is done, or restart it", w.id)
		}
		if err := w.gpu.Free(ctx); err != nil {
			return cluster.Errorf(cluster.Unavailable, "ComfyUI of worker %s does not answer: %v", w.id, err)
		}
		return nil
	case ui.ReleaseWorker:
		w.gpu.Return(gpu.Quarantine)
		return nil
	}
	if w.process == nil {
		return cluster.Errorf(cluster.Conflict, "ComfyUI of worker %s was not started by this agent, so it cannot end or start it: do it on that machine, or give the agent the folder with --comfyui-dir", w.id)
	}
	by := "by " + in.Actor
	switch in.Do {
	case ui.RestartWorker:
		w.gpu.HandBack("ComfyUI was restarted " + by)
		w.gpu.Return(gpu.Quarantine)
		w.process.Restart("restarted " + by)
	case ui.StopWorker:
		w.gpu.HandBack("ComfyUI was stopped " + by)
		w.process.Stop("stopped " + by)
	case ui.StartWorker:
		w.process.Start()
	default:
		return cluster.Errorf(cluster.Invalid, "a worker cannot be asked to %q", in.Do)
	}
	return nil
}

// maxPrinted bounds the lines that are sent.
const maxPrinted = 2000

// printed is what a worker's ComfyUI printed last.
func (f *fleet) printed(in logAsk) (ui.Printed, error) {
	w, err := f.find(in.Worker)
	if err != nil {
		return ui.Printed{}, err
	}
	if w.process == nil {
		return ui.Printed{}, cluster.Errorf(cluster.Conflict, "ComfyUI of worker %s was not started by this agent, so what it prints is not here: see that machine", w.id)
	}
	out := ui.Printed{Worker: w.id, Lines: []ui.Line{}}
	if in.Lines <= 0 || in.Lines > maxPrinted {
		in.Lines = maxPrinted
	}
	for _, l := range w.process.Tail(in.Lines) {
		out.Lines = append(out.Lines, ui.Line{At: l.At.UnixMilli(), Text: l.Text})
	}
	return out, nil
}

// leaving is a machine on its way out.
type leaving struct {
	why  string
	at   time.Time // when its jobs are given back, zero = never
	stop func() bool
	// forGood says that nobody can undo it: the provider takes the machine.
	forGood bool
}

// leaveWithin lets this node's workers take nothing new, and give back what
// they still have when the time is up.
func (f *fleet) leaveWithin(in leaveAsk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leave != nil && f.leave.stop != nil {
		f.leave.stop()
	}
	if in.Undo {
		f.leave = nil
		for _, w := range f.all {
			w.gpu.Return(gpu.Leaving)
		}
		return
	}
	within := time.Duration(in.Within) * time.Millisecond
	l := &leaving{why: "This machine is drained by " + in.Actor + ".", at: time.Now().Add(within)}
	if within > 0 {
		l.why = fmt.Sprintf("This machine is drained by %s: its jobs go elsewhere at %s.", in.Actor, l.at.Format(time.TimeOnly))
	}
	f.leave = l
	all := f.all
	for _, w := range all {
		w.gpu.StandAside(gpu.Leaving, l.why)
	}
	l.stop = time.AfterFunc(within, func() {
		for _, w := range f.workers() {
			w.gpu.HandBack("its machine was drained by " + in.Actor)
		}
	}).Stop
}

// reclaimed is a machine that its owner takes back in a moment: whatever runs
// goes back to the queue at once.
func (f *fleet) reclaimed(notice string) {
	f.mu.Lock()
	if f.leave != nil && f.leave.stop != nil {
		f.leave.stop()
	}
	f.leave = &leaving{why: "This machine is about to be taken away: " + notice + ".", forGood: true}
	all := append([]*worker(nil), f.all...)
	f.mu.Unlock()
	f.log.Warn("this machine is about to be taken away: its jobs go back to the queue", "notice", notice)
	for _, w := range all {
		w.gpu.StandAside(gpu.Leaving, f.leave.why)
		w.gpu.HandBack("its GPU was reclaimed by the provider; it starts again elsewhere")
	}
}

// absent stands for the workers that this node should have and has not.
func (f *fleet) absent() ui.Worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	why := f.trouble
	if why == "" {
		why = "it looks for a GPU"
	}
	return ui.Worker{ID: cluster.WorkerID(f.a.self.Name + "/0"), State: workerNone, Percent: -1, Load: sensors.Unknown, Heat: sensors.Unknown, Detail: why}
}

// row completes what a page shows of a worker whose ComfyUI was started here.
func (f *fleet) row(w *worker, row *ui.Worker) {
	if g, ok := f.gauge(w); ok {
		row.Load, row.Heat = g.Load, g.Heat
		if g.Total > 0 && g.Used >= 0 {
			row.VRAM, row.VRAMFree = g.Total, g.Total-g.Used // of all who use the card, not of PyTorch alone
		}
		if row.Device == "" {
			row.Device = g.Name
		}
	}
	if w.process == nil {
		return
	}
	s := w.process.State()
	row.Ours = true
	row.Starts = s.Starts
	var notes []string
	if s.Phase != comfyui.Ready {
		row.State, row.Since = string(s.Phase), s.Since.UnixMilli()
		row.Detail = s.Problem
	} else {
		notes = append(notes, row.Detail)
	}
	if len(s.Lacks) > 0 {
		notes = append(notes, "custom nodes that could not be loaded: "+strings.Join(s.Lacks, ", "))
	}
	notes = append(notes, s.Unlisted)
	for _, n := range notes {
		if n != "" && row.Detail != n {
			row.Detail = strings.TrimPrefix(row.Detail+"; "+n, "; ")
		}
	}
}

// problems is what a person should look at on this node.
func (f *fleet) problems() (out []ui.Problem) {
	f.mu.Lock()
	trouble, blind, leave := f.trouble, f.blind, f.leave
	f.mu.Unlock()
	if trouble != "" && len(f.workers()) == 0 {
		out = append(out, ui.Problem{Level: ui.Warn, What: "the role gpu is unavailable: " + trouble, Cure: "it is looked at again every half minute"})
	}
	if blind != "" {
		out = append(out, ui.Problem{Level: ui.Warn, What: blind})
	}
	if leave != nil {
		out = append(out, ui.Problem{Level: ui.Warn, What: leave.why})
	}
	out = append(out, f.dog.idleProblem(f.meter)...)
	for _, w := range f.workers() {
		if w.process != nil {
			if s := w.process.State(); s.Phase == comfyui.Looping {
				out = append(out, ui.Problem{Level: ui.Fail, What: fmt.Sprintf("ComfyUI of worker %s ends again and again: %s", w.id, s.Problem), Cure: "comfyume-agent worker log " + string(w.id), Since: s.Since.UnixMilli()})
			} else if s.Unlisted != "" {
				out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("worker %s: %s", w.id, s.Unlisted)})
			}
		}
		if why := w.gpu.Aside(); why != "" && leave == nil {
			out = append(out, ui.Problem{Level: ui.Fail, What: fmt.Sprintf("worker %s takes no jobs: %s", w.id, why)})
		}
	}
	return out
}

// tend asks the node of a worker to do something with it, and enters who asked.
func (v *view) tend(ctx context.Context, p peer.Proposals, actor string, a ui.Action) error {
	node, err := v.nodeOf(a.Worker)
	if err != nil {
		return err
	}
	if err := v.swarm.client.Call(ctx, node, verbCare, care{a.Worker, a.Verb, actor}, nil); err != nil {
		return err
	}
	return commit(ctx, p, &state.Acted{What: fmt.Sprintf("asked worker %s to %s", a.Worker, strings.TrimSuffix(string(a.Verb), "-worker"))})
}

// nodeOf finds the node that a worker is of, by what the nodes report.
func (v *view) nodeOf(id cluster.WorkerID) (cluster.NodeID, error) {
	for _, h := range v.swarm.reports.list() {
		for _, w := range h.Workers {
			if w.ID == id {
				return h.Member.ID, nil
			}
		}
	}
	return "", cluster.Errorf(cluster.NotFound, "no node has a worker %q: see worker ls", id)
}

// Printed is what a worker's ComfyUI printed last, wherever that worker is.
func (v *view) Printed(ctx context.Context, id cluster.WorkerID, lines int) (out ui.Printed, err error) {
	node, err := v.nodeOf(id)
	if err != nil {
		return out, err
	}
	err = v.swarm.client.Call(ctx, node, verbLog, logAsk{id, lines}, &out)
	return out, err
}

// drainWithin tells a node to give its jobs back after a while, or not to.
func (v *view) drainWithin(ctx context.Context, n state.Node, actor string, a ui.Action) error {
	if !n.HasRole(cluster.GPU) {
		return nil
	}
	err := v.swarm.client.Call(ctx, n.ID, verbLeave, leaveAsk{Within: a.Within, Undo: a.Verb == ui.UndrainNode, Actor: actor}, nil)
	if a.Verb == ui.UndrainNode && cluster.CodeOf(err) == cluster.Unavailable {
		return nil // it is not there: it starts without
	}
	return err
}
