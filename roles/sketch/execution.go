package sketch

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// execution is one run of one job. Messages go to the client that submitted it,
// in ComfyUI's order:
//
//	execution_start, execution_cached,
//	for each node: progress_state(running), executing, [progress, progress_state,
//	               preview]*, executed if it shows something, progress_state(finished),
//	execution_success or execution_error or execution_interrupted
type execution struct {
	e      *executor
	s      *Server
	job    *job
	ctx    context.Context // ends on interrupt, too
	server context.Context

	sigs     map[string]signature
	values   map[string]result
	progress map[string]comfy.NodeProgress
	executed []string
	messages []comfy.HistoryMessage
	outputs  comfy.Object
	meta     comfy.Object
}

// run executes the job and returns what history keeps.
func (x *execution) run() comfy.HistoryEntry {
	id := x.job.item.PromptID
	x.sigs, x.values, x.progress = map[string]signature{}, map[string]result{}, map[string]comfy.NodeProgress{}
	x.tell(comfy.ExecutionStart(id, x.now()))
	order := x.order()
	x.e.keep(x.sigs)
	var cached []string
	for _, n := range x.job.graph.Nodes {
		if _, needed := x.sigs[n.ID]; !needed {
			continue
		}
		if r, ok := x.e.cached(x.sigs[n.ID]); ok {
			x.values[n.ID] = r
			cached = append(cached, n.ID)
		}
	}
	x.tell(comfy.ExecutionCached(cached, id, x.now()))
	status := comfy.HistoryStatus{StatusStr: comfy.HistorySuccess, Completed: true}
	if failed, err := x.runNodes(order); err != nil {
		status = comfy.HistoryStatus{StatusStr: comfy.HistoryError}
		if x.server.Err() == nil {
			x.fail(failed, err)
		}
	} else {
		x.tell(comfy.ExecutionSuccess(id, x.now()))
	}
	status.Messages = x.messages
	return comfy.HistoryEntry{Prompt: x.job.item, Outputs: x.outputs, Status: status, Meta: x.meta}
}

// order lists the nodes that the outputs need, each after its sources, and signs them.
func (x *execution) order() []*comfy.Node {
	var out []*comfy.Node
	var visit func(id string)
	visit = func(id string) {
		if _, done := x.sigs[id]; done {
			return
		}
		n, ok := x.job.graph.Node(id)
		if !ok { // a link in an input that its class does not have
			return
		}
		x.sigs[id] = signature{} // validation has refused cycles; this keeps odd inputs from making one
		for _, in := range n.Inputs {
			if in.Link != nil {
				visit(in.Link.Node)
			}
		}
		x.sigs[id] = x.sign(n)
		out = append(out, n)
	}
	for _, id := range x.job.item.Outputs {
		visit(id)
	}
	return out
}

func (x *execution) sign(n *comfy.Node) signature {
	h := sha256.New()
	fmt.Fprintf(h, "%q", n.ClassType)
	inputs := slices.Clone(n.Inputs)
	slices.SortFunc(inputs, func(a, b comfy.Input) int { return strings.Compare(a.Name, b.Name) })
	for _, in := range inputs {
		if in.Link != nil {
			source := x.sigs[in.Link.Node]
			fmt.Fprintf(h, "%q<%x %d", in.Name, source[:], in.Link.Slot)
			continue
		}
		fmt.Fprintf(h, "%q=%q", in.Name, in.Raw)
	}
	if c := x.s.classes.byName[n.ClassType]; c != nil && c.volatile != nil {
		fmt.Fprintf(h, "+%s", c.volatile(&x.s.folders, n))
	}
	return signature(h.Sum(nil))
}

// runNodes runs what is not cached; failed is the node at which it stopped.
func (x *execution) runNodes(order []*comfy.Node) (failed *comfy.Node, err error) {
	for _, n := range order {
		if x.ctx.Err() != nil {
			return n, errInterrupted
		}
		r, ok := x.values[n.ID]
		if ok && !slices.Contains(x.job.item.Outputs, n.ID) {
			continue // ComfyUI does not speak of what it need not touch
		}
		if !ok {
			if r, err = x.runNode(n); err != nil {
				return n, err
			}
			x.values[n.ID] = r
			x.e.store(x.sigs[n.ID], r)
		}
		if r.ui != nil {
			x.outputs.Set(n.ID, r.ui)
			x.meta.Set(n.ID, value(comfy.NodeMeta{NodeID: n.ID, DisplayNode: n.ID, RealNodeID: n.ID}))
			x.send(comfy.Executed(n.ID, n.ID, r.ui, x.job.item.PromptID))
		}
		x.state(n.ID, comfy.StateFinished, -1, -1)
		if !ok {
			x.executed = append(x.executed, n.ID)
		}
	}
	return nil, nil
}

// runNode runs one node. A panic in it fails the job, not the process that this
// server is a part of.
func (x *execution) runNode(n *comfy.Node) (r result, err error) {
	x.state(n.ID, comfy.StateRunning, 0, 1)
	x.send(comfy.Executing(n.ID, n.ID, x.job.item.PromptID))
	x.e.setNode(n.ID)
	defer func() {
		if p := recover(); p != nil {
			x.s.log.Error("a node panicked", "prompt_id", x.job.item.PromptID, "class", n.ClassType, "panic", p)
			err = raise("RuntimeError", "%s broke down", n.ClassType)
		}
	}()
	class := x.s.classes.byName[n.ClassType]
	return class.run(&call{
		ctx: x.ctx, server: x.server, s: x.s, job: x.job, args: x.args(n, class),
		progress: func(v, maximum float64) {
			x.sendAll(comfy.Progress(v, maximum, x.job.item.PromptID, n.ID))
			x.state(n.ID, comfy.StateRunning, v, maximum)
		},
		preview: func(m *images) { x.preview(n.ID, m) },
	})
}

// args gathers a node's inputs: linked values, literals in their types, and the
// defaults of what is not given.
func (x *execution) args(n *comfy.Node, c *class) map[string]any {
	args := map[string]any{}
	info, _ := x.s.classes.info.Class(c.name)
	for _, spec := range info.Inputs {
		in, given := n.Input(spec.Name)
		switch {
		case given && in.Link != nil:
			if source := x.values[in.Link.Node]; in.Link.Slot < len(source.outputs) {
				args[spec.Name] = source.outputs[in.Link.Slot]
			}
		case given:
			args[spec.Name] = literal(spec.Type, in.Raw)
		case spec.Default != nil:
			args[spec.Name] = literal(spec.Type, spec.Default)
		}
	}
	return args
}

// literal reads a value as ComfyUI's conversions do.
func literal(typ string, raw json.RawMessage) any {
	if wrapped, err := comfy.ParseObject(raw); err == nil {
		if inner, ok := wrapped.Lookup("__value__"); ok {
			raw = inner
		}
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		s = string(raw)
	}
	switch typ {
	case "INT":
		s = strings.ReplaceAll(strings.TrimSpace(s), "_", "")
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil && s == "true" {
			return int64(1)
		}
		return f
	case "FLOAT":
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil && s == "true" {
			return float64(1)
		}
		return f
	}
	return s
}

// fail tells and notes how the job ended.
func (x *execution) fail(n *comfy.Node, err error) {
	if errors.Is(err, errInterrupted) {
		m := comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: x.job.item.PromptID, NodeID: n.ID, NodeType: n.ClassType, Executed: x.executed, Timestamp: x.now()})
		x.messages = append(x.messages, comfy.HistoryMessage(m))
		x.sendAll(m)
		return
	}
	kind, message := "RuntimeError", err.Error()
	var known *nodeError
	if errors.As(err, &known) {
		kind = known.kind
	}
	x.s.note("a node failed", "prompt_id", x.job.item.PromptID, "class", n.ClassType, "exception", kind)
	x.tell(comfy.ExecutionError(comfy.ExecutionErrorData{
		PromptID: x.job.item.PromptID, NodeID: n.ID, NodeType: n.ClassType, Executed: x.executed,
		ExceptionMessage: message + "\n", ExceptionType: kind,
		Traceback:      []string{fmt.Sprintf("  in sketch, node %s (%s)\n", n.ID, n.ClassType), fmt.Sprintf("%s: %s\n", kind, message)},
		CurrentInputs:  x.currentInputs(n),
		CurrentOutputs: value(slices.Sorted(maps.Keys(x.values))),
		Timestamp:      x.now(),
	}))
}

// currentInputs lists the values of the node that failed; pictures by their size.
func (x *execution) currentInputs(n *comfy.Node) json.RawMessage {
	c := x.s.classes.byName[n.ClassType]
	out := map[string][]any{}
	for name, v := range x.args(n, c) {
		switch v := v.(type) {
		case *images:
			out[name] = []any{fmt.Sprintf("IMAGE %d x %d x %d", v.n, v.h, v.w)}
		case *mask:
			out[name] = []any{fmt.Sprintf("MASK %d x %d x %d", v.n, v.h, v.w)}
		default:
			out[name] = []any{v}
		}
	}
	return value(out)
}

// state notes a node's progress and tells all of them. Negative numbers leave
// the value at its maximum.
func (x *execution) state(id string, state comfy.NodeState, v, maximum float64) {
	p, ok := x.progress[id]
	if !ok {
		p = comfy.NodeProgress{Max: 1, NodeID: id, PromptID: x.job.item.PromptID, DisplayNodeID: id, RealNodeID: id}
	}
	p.State = state
	if maximum >= 0 {
		p.Value, p.Max = v, maximum
	} else {
		p.Value = p.Max
	}
	x.progress[id] = p
	x.sendAll(comfy.ProgressState(x.job.item.PromptID, x.progress))
}

func (x *execution) preview(id string, m *images) {
	if x.job.clientID == "" {
		return
	}
	picture, err := m.encodePreview()
	if err != nil {
		x.s.log.Warn("making a preview", "err", err)
		return
	}
	x.s.hub.preview(x.job.clientID, comfy.NewPreviewMetadata(comfy.PreviewMeta{
		NodeID: id, PromptID: x.job.item.PromptID, DisplayNodeID: id, RealNodeID: id, ImageType: "image/jpeg",
	}, picture))
}

// tell sends a message and keeps it for history.
func (x *execution) tell(m comfy.Message) {
	x.messages = append(x.messages, comfy.HistoryMessage(m))
	x.send(m)
}

// send reaches the client that submitted the job, if it named itself.
func (x *execution) send(m comfy.Message) {
	if x.job.clientID != "" {
		x.s.hub.send(x.job.clientID, m)
	}
}

// sendAll reaches that client, or everybody when it did not name itself.
func (x *execution) sendAll(m comfy.Message) {
	if x.job.clientID != "" {
		x.s.hub.send(x.job.clientID, m)
		return
	}
	x.s.hub.broadcast(m)
}

func (x *execution) now() int64 { return x.s.cfg.Now().UnixMilli() }
