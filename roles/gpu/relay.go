package gpu

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// event takes one event of the socket. Those of other prompts (somebody may use
// the same ComfyUI directly) and those about the server itself are passed over.
func (a *attempt) event(ctx context.Context, e comfy.Event) error {
	if e.Frame != nil {
		if id, named := e.Frame.PromptID(); a.begun && (!named || id == a.id) {
			a.hear()
			a.frame(*e.Frame)
		}
		return nil
	}
	id, named := e.Message.PromptID()
	switch {
	case named && id == a.id:
		a.hear()
		return a.message(ctx, *e.Message)
	case !named && a.begun && customType(e.Message.Type):
		a.publish(*e.Message, false)
	}
	return nil
}

// hear notes a sign of life.
func (a *attempt) hear() {
	a.heard.Store(true)
	a.spoke = time.Now()
}

// customType reports whether a type is some custom node's own: they speak to
// their page without naming the prompt.
func customType(typ string) bool {
	switch typ {
	case comfy.TypeStatus, comfy.TypeExecutionStart, comfy.TypeExecutionCached, comfy.TypeExecuting, comfy.TypeProgress, comfy.TypeProgressState,
		comfy.TypeExecuted, comfy.TypeExecutionSuccess, comfy.TypeExecutionError, comfy.TypeExecutionInterrupted,
		comfy.TypeFeatureFlags, comfy.TypeNotification, comfy.TypeLogs:
		return false
	}
	return !strings.HasPrefix(typ, "asset")
}

// message relays a message of this prompt as far as it is for its user. How the
// job ends they learn from the table.
func (a *attempt) message(ctx context.Context, m comfy.Message) error {
	switch m.Type {
	case comfy.TypeExecutionStart:
		return a.begin(ctx, m)
	case comfy.TypeExecutionSuccess, comfy.TypeExecutionError, comfy.TypeExecutionInterrupted:
		// An error may be of one node only, and the run goes on: what history says
		// at the end decides.
		a.remember(m)
		return nil
	}
	if err := a.begin(ctx, a.ownStart()); err != nil { // its start was missed
		return err
	}
	switch m.Type {
	case comfy.TypeExecuting:
		if m.Ends() {
			a.over = true
			return nil
		}
		a.executing(m)
		a.publish(m, false)
	case comfy.TypeExecutionCached:
		a.remember(m)
		a.publish(m, false)
	case comfy.TypeProgress:
		var p comfy.ProgressData
		if m.Decode(&p) == nil {
			a.note(func(s *Status) { s.NodeID, s.Value, s.Max = p.Node, p.Value, p.Max })
		}
		a.thin(progressLane, m)
	case comfy.TypeProgressState:
		a.thin(stateLane, m)
	case comfy.TypeExecuted:
		return a.executed(ctx, m)
	default:
		a.publish(m, false)
	}
	return nil
}

// ownStart stands in for a message that was missed.
func (a *attempt) ownStart() comfy.Message {
	return comfy.ExecutionStart(a.id, time.Now().UnixMilli())
}

// begin commits that the job runs, then says so.
func (a *attempt) begin(ctx context.Context, m comfy.Message) error {
	if a.begun {
		return nil
	}
	a.remember(m)
	err := a.w.insist(ctx, func(ctx context.Context) (err error) {
		a.index, err = a.w.cfg.Queue.Started(ctx, a.lease)
		return err
	})
	if errors.Is(err, errLost) {
		// A job that is being cancelled cannot start any more, but is still ours.
		v, renewErr := a.w.cfg.Queue.Renew(ctx, a.lease)
		if renewErr != nil || v != jobs.Stop {
			return err
		}
		a.stop()
		err = nil
	}
	if err != nil {
		return err
	}
	a.begun = true
	close(a.started)
	a.note(func(s *Status) { s.Phase = Running })
	a.publish(m, false)
	return nil
}

// remember keeps a message for history, under the user's id.
func (a *attempt) remember(m comfy.Message) {
	if own, ok := a.own(m); ok {
		a.told[m.Type] = own
	}
}

// own is a message as its user may see it.
func (a *attempt) own(m comfy.Message) (comfy.Message, bool) {
	own, err := m.WithPromptID(a.row.ID.Prompt)
	if err != nil {
		a.w.log.Warn("passing over a message", "type", m.Type, "err", err)
		return m, false
	}
	return a.undo.scrub(own), true
}

// publish sends a message on, after all that came before it.
func (a *attempt) publish(m comfy.Message, droppable bool) {
	if e, ok := a.textEvent(m, droppable); ok {
		a.pace.release()
		a.say(e)
	}
}

// thin sends a message on unless a newer one comes soon.
func (a *attempt) thin(l lane, m comfy.Message) {
	if e, ok := a.textEvent(m, true); ok {
		a.pace.offer(l, e)
	}
}

func (a *attempt) textEvent(m comfy.Message, droppable bool) (jobs.Event, bool) {
	own, ok := a.own(m)
	if !ok {
		return jobs.Event{}, false
	}
	return jobs.Event{Job: a.row.ID, ClientID: a.row.ClientID, Epoch: a.lease.Epoch, Type: m.Type, Text: own.Encode(), Index: a.index, Droppable: droppable}, true
}

// executing notes which node runs.
func (a *attempt) executing(m comfy.Message) {
	var e comfy.ExecutingData
	if m.Decode(&e) != nil || e.Node == nil {
		return
	}
	a.class = ""
	for _, id := range []*string{e.Node, e.DisplayNode} { // a node made while running is not in the graph
		if id == nil || a.class != "" {
			continue
		}
		if n, ok := a.graph.Node(*id); ok {
			a.class = n.ClassType
		}
	}
	a.ran = append(a.ran, *e.Node)
	a.note(func(s *Status) { s.NodeID, s.Value, s.Max = *e.Node, 0, 0 })
}

// saver is the class whose results are frames: each of them counts.
const saver = "SaveImageWebsocket"

// frame relays a binary frame. Pictures that are results, not previews, and
// frames of custom nodes are never thinned.
func (a *attempt) frame(f comfy.Frame) {
	own, err := f.WithPromptID(a.row.ID.Prompt)
	if err != nil {
		a.w.log.Warn("passing over a frame", "err", err)
		return
	}
	if own.Event == comfy.EventText {
		own.Payload = []byte(a.undo.text.Replace(string(own.Payload)))
		own.Raw = own.Encode()
	}
	e := jobs.Event{Job: a.row.ID, ClientID: a.row.ClientID, Epoch: a.lease.Epoch, Type: "preview", Binary: own.Raw, Index: a.index}
	if e.Droppable = own.Preview() && a.class != saver; e.Droppable {
		a.pace.offer(previewLane, e)
		return
	}
	a.pace.release()
	a.say(e)
}

// executed brings a node's files home, then tells of them.
func (a *attempt) executed(ctx context.Context, m comfy.Message) error {
	fields, err := comfy.ParseObject(m.Data)
	if err != nil {
		a.w.log.Warn("passing over an output", "err", err)
		return nil
	}
	var e comfy.ExecutedData
	if err := m.Decode(&e); err != nil {
		a.w.log.Warn("passing over an output", "err", err)
		return nil
	}
	a.busy.Store(true) // ComfyUI may be done before this is
	defer a.busy.Store(false)
	output, err := a.bring(ctx, e.Node, e.Output)
	if err != nil {
		return err
	}
	if len(output) > 0 && string(output) != "null" {
		a.outputs.Set(e.Node, output)
	}
	fields.Set("output", output)
	m.Data = object(fields)
	a.shown[e.Node] = true
	a.publish(m, false)
	return nil
}
