package gpu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// report ends a job that ComfyUI is done with: what is not home yet is brought,
// and history says how it went.
func (a *attempt) report(ctx context.Context) error {
	a.note(func(s *Status) { s.Phase, s.NodeID, s.Value, s.Max = Storing, "", 0, 0 })
	go func() { _ = a.freed() }()
	past, err := a.past(ctx)
	if err != nil {
		return err
	}
	if past != nil {
		if err := a.complete(ctx, past); err != nil {
			return err
		}
	}
	if err := a.freed(); err != nil {
		return fmt.Errorf("say that the GPU is free: %w", err)
	}
	for item, p := range a.placed {
		if !a.kept(ctx, p.ref) {
			a.w.log.Error("a stored output is not there", "user", a.row.ID.User, "job", a.row.ID.Prompt, "item", item.Type, "ref", p.ref.Short())
			return &givenUp{reason: "a stored result was not there when it was checked"}
		}
	}
	end := a.ending(past)
	if end.outOfMemory {
		if moved, err := a.elsewhere(ctx); moved || err != nil {
			return err
		}
	}
	return a.finish(ctx, end, past)
}

// free says that the GPU is free of the job, after it was said that it runs.
func (a *attempt) free() error {
	ctx, cancel := linger(a.ctx, a.w.cfg.Patience.Bye)
	defer cancel()
	if err := until(ctx, a.started); err != nil {
		return err
	}
	err := a.w.insist(ctx, func(ctx context.Context) error { return a.w.cfg.Queue.GpuDone(ctx, a.lease) })
	if errors.Is(err, errLost) {
		// Taken back while the queue was out of reach: the result still counts if no
		// other worker has begun.
		if v, verr := a.w.cfg.Queue.Renew(ctx, a.lease); verr == nil && v == jobs.Go {
			return nil
		}
	}
	return err
}

// past reads the prompt's history. ComfyUI writes it before its last message,
// but some versions a moment after. Without history (somebody may have cleared
// it), what was heard has to do: nil.
func (a *attempt) past(ctx context.Context) (*comfy.HistoryEntry, error) {
	pause := a.w.backoff()
	for n := 1; ; n++ {
		entry, ok, err := a.w.client.History(ctx, a.id)
		switch {
		case ok && err == nil:
			return &entry, nil
		case context.Cause(ctx) != nil:
			return nil, context.Cause(ctx)
		case n < tries:
		case err != nil && !a.ended():
			return nil, &givenUp{strike: true, reason: stoppedHere}
		default:
			a.w.log.Warn("ComfyUI has no history of a job", "user", a.row.ID.User, "job", a.row.ID.Prompt, "err", err)
			return nil, nil
		}
		pause.wait(ctx)
	}
}

// ended reports whether a message told how the job ended.
func (a *attempt) ended() bool {
	_, ok := a.lastWord()
	return ok
}

// lastWord is the message that told how the job ended. That of an error may have
// been about one node of a run that went well.
func (a *attempt) lastWord() (comfy.Message, bool) {
	for _, typ := range []string{comfy.TypeExecutionSuccess, comfy.TypeExecutionInterrupted, comfy.TypeExecutionError} {
		if m, ok := a.told[typ]; ok {
			return m, true
		}
	}
	return comfy.Message{}, false
}

// complete brings what history names and no message did.
func (a *attempt) complete(ctx context.Context, past *comfy.HistoryEntry) error {
	var all comfy.Object
	for _, f := range past.Outputs {
		own, err := a.bring(ctx, f.Key, f.Value)
		if err != nil {
			return err
		}
		all.Set(f.Key, own)
		if !a.shown[f.Key] {
			a.shown[f.Key] = true
			a.publish(comfy.Executed(f.Key, displayNode(past.Meta, f.Key), own, a.id), false)
		}
	}
	a.outputs = all
	return nil
}

func displayNode(meta comfy.Object, node string) string {
	raw, _ := meta.Lookup(node)
	var m comfy.NodeMeta
	if json.Unmarshal(raw, &m) == nil && m.DisplayNode != "" {
		return m.DisplayNode
	}
	return node
}

// ending is how a job ended: for the row and as a message for pages.
type ending struct {
	state   jobs.State
	failure *jobs.Failure
	last    comfy.Message
	// outOfMemory says that it may end better on a larger GPU.
	outOfMemory bool
}

// ending reads how it went: from history, and where that keeps no more than
// headings, from what was heard.
func (a *attempt) ending(past *comfy.HistoryEntry) ending {
	if past != nil {
		for _, m := range past.Status.Messages {
			// What was heard says more: some servers keep only "execution_error: why".
			if _, heard := a.told[m.Type]; !heard && len(m.Data) > 0 {
				a.remember(comfy.Message(m))
			}
		}
	}
	last, told := a.lastWord()
	switch {
	case a.stopping(), past != nil && past.Status.Interrupted(), past == nil && told && last.Type == comfy.TypeExecutionInterrupted:
		return a.interrupted()
	case past != nil && past.Status.StatusStr == comfy.HistorySuccess, past == nil && told && last.Type == comfy.TypeExecutionSuccess:
		m, ok := a.told[comfy.TypeExecutionSuccess]
		if !ok {
			m = comfy.ExecutionSuccess(a.row.ID.Prompt, time.Now().UnixMilli())
		}
		return ending{state: jobs.Done, last: m}
	}
	if m, ok := a.told[comfy.TypeExecutionError]; ok {
		return a.errored(m)
	}
	return a.failed(jobs.Failure{Type: "execution_error", Message: "ComfyUI ended this workflow without saying why."})
}

// interrupted is the end of a job that its user stopped.
func (a *attempt) interrupted() ending {
	m, ok := a.told[comfy.TypeExecutionInterrupted]
	if !ok {
		d := comfy.InterruptedData{PromptID: a.row.ID.Prompt, Timestamp: time.Now().UnixMilli()}
		if n := len(a.ran); n > 0 {
			d.NodeID, d.NodeType, d.Executed = a.ran[n-1], a.class, a.ran[:n-1]
		}
		m = comfy.ExecutionInterrupted(d)
	}
	return ending{state: jobs.Cancelled, last: m}
}

// failed is the end of a job for a reason of our own finding.
func (a *attempt) failed(f jobs.Failure) ending {
	d := comfy.ExecutionErrorData{
		PromptID: a.row.ID.Prompt, NodeID: f.NodeID, NodeType: f.NodeType, Executed: a.ran,
		ExceptionType: f.Type, ExceptionMessage: f.Message + "\n", Timestamp: time.Now().UnixMilli(),
	}
	return ending{state: jobs.Failed, failure: &f, last: comfy.ExecutionError(d.WithErrorID())}
}

// errored is the end of a job as ComfyUI tells it. The message is written anew,
// since pages are strict about its fields.
func (a *attempt) errored(m comfy.Message) ending {
	var e comfy.ExecutionErrorData
	if err := m.Decode(&e); err != nil {
		a.w.log.Warn("ComfyUI's report of an error cannot be read", "err", err)
		return a.failed(jobs.Failure{Type: "execution_error", Message: "ComfyUI reported an error that cannot be read."})
	}
	f := &jobs.Failure{Type: e.ExceptionType, Message: strings.TrimSpace(e.ExceptionMessage), NodeID: e.NodeID, NodeType: e.NodeType}
	if e.OutOfMemory() {
		return a.tooLarge(e)
	}
	return ending{state: jobs.Failed, failure: f, last: comfy.ExecutionError(e.WithErrorID())}
}

// rejected is a prompt that ComfyUI refused although the gateway had let it pass.
// The first node of the graph with a complaint is to blame.
func (a *attempt) rejected(r *comfy.PromptError) error {
	f := jobs.Failure{Type: r.Detail.Type, Message: r.Error()}
	for _, n := range a.graph.Nodes {
		bad := r.Nodes[n.ID]
		if bad == nil {
			continue
		}
		if f.NodeID == "" {
			f.NodeID, f.NodeType = n.ID, n.ClassType
		}
		for _, d := range bad.Errors {
			f.Message += fmt.Sprintf("\nNode %s (%s): %s", n.ID, n.ClassType, (&comfy.PromptError{Detail: d}).Error())
		}
	}
	f.Message = trimPaths(a.undo.text.Replace(f.Message))
	return &refusal{f}
}

// finish keeps the history entry and ends the job. A page must have seen a job
// begin before it can be told that it failed.
func (a *attempt) finish(ctx context.Context, e ending, past *comfy.HistoryEntry) error {
	if e.state == jobs.Failed {
		if err := a.begin(ctx, a.ownStart()); err != nil {
			return err
		}
	}
	a.pace.release()
	packed := comfy.Pack(a.entry(e, past).Encode())
	var ref cluster.Ref
	err := a.w.insist(ctx, func(ctx context.Context) (err error) {
		if ref, _, err = a.w.cfg.Blobs.Put(ctx, bytes.NewReader(packed), int64(len(packed))); err != nil {
			return err
		}
		return a.w.cfg.Depot.Keep(ctx, a.lease, ref)
	})
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	s := comfy.SummarizeOutputs(a.outputs)
	f := jobs.Finish{Lease: a.lease, State: e.state, Failure: e.failure, History: ref, Outputs: int64(s.Count), Previewable: int64(s.Previewable), Preview: bounded(s.Preview)}
	for _, before := range a.first {
		if !a.begun {
			break // of this one pages are told nothing
		}
		if err := until(ctx, before.left); err != nil {
			return err
		}
	}
	a.mayTell()
	// A gateway tells the end when it sees the row: it must have all before it.
	flush, cancel := context.WithTimeout(ctx, flushWithin)
	a.w.cfg.Flush(flush)
	cancel()
	if err := a.w.insist(ctx, func(ctx context.Context) error { return a.w.cfg.Queue.Finish(ctx, f) }); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	a.w.log.Info("job finished", "user", a.row.ID.User, "job", a.row.ID.Prompt, "state", e.state, "outputs", s.Count)
	return nil
}

// flushWithin is how long the end of a job waits for pages' gateways.
const flushWithin = 2 * time.Second

// entry composes what the user's history says.
func (a *attempt) entry(e ending, past *comfy.HistoryEntry) comfy.HistoryEntry {
	now := time.Now().UnixMilli()
	start, ok := a.told[comfy.TypeExecutionStart]
	if !ok {
		start = comfy.ExecutionStart(a.row.ID.Prompt, now)
	}
	messages := []comfy.HistoryMessage{comfy.HistoryMessage(start)}
	cached, ok := a.told[comfy.TypeExecutionCached]
	if !ok && a.begun && past != nil {
		cached, ok = comfy.ExecutionCached(nil, a.row.ID.Prompt, now), true
	}
	if ok {
		messages = append(messages, comfy.HistoryMessage(cached))
	}
	status := comfy.HistoryStatus{StatusStr: comfy.HistoryError, Messages: append(messages, comfy.HistoryMessage(e.last))}
	if e.state == jobs.Done {
		status.StatusStr, status.Completed = comfy.HistorySuccess, true
	}
	h := comfy.HistoryEntry{Prompt: a.tuple(), Outputs: a.outputs, Status: status}
	if past != nil {
		h.Prompt.Outputs, h.Meta = past.Prompt.Outputs, past.Meta
	}
	return h
}

// tuple is the prompt as its user sent it.
func (a *attempt) tuple() comfy.QueueItem {
	extra, err := comfy.ParseObject(a.req.ExtraData)
	if err != nil {
		extra = nil // none was sent
	}
	extra = slices.Clone(extra)
	extra.Set("create_time", json.RawMessage(strconv.FormatInt(a.row.Created, 10)))
	if a.row.ClientID != "" {
		extra.Set("client_id", encode(a.row.ClientID))
	}
	return comfy.QueueItem{Number: float64(a.row.Number), PromptID: a.row.ID.Prompt, Prompt: a.req.Prompt, ExtraData: object(extra)}
}

// bounded is a preview item that fits a row: whole, or the names alone, or none.
func bounded(preview json.RawMessage) json.RawMessage {
	if len(preview) <= jobs.MaxPreview {
		return preview
	}
	fields, err := comfy.ParseObject(preview)
	if err != nil {
		return nil
	}
	var out comfy.Object
	for _, key := range []string{"filename", "subfolder", "type", "nodeId", "mediaType"} {
		v, ok := fields.Lookup(key)
		if !ok {
			return nil
		}
		out.Set(key, v)
	}
	if short := object(out); len(short) <= jobs.MaxPreview {
		return short
	}
	return nil
}
