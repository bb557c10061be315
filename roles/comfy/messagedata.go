package comfy

import "encoding/json"

// StatusData is how many prompts wait or run; SID only in the first one.
type StatusData struct {
	Status struct {
		ExecInfo ExecInfo `json:"exec_info"`
	} `json:"status"`
	SID string `json:"sid,omitempty"`
}

// ExecInfo is the count behind the badge of the queue button.
type ExecInfo struct {
	QueueRemaining int `json:"queue_remaining"`
}

// ExecutionData is shared by execution_start and execution_success.
type ExecutionData struct {
	PromptID  string `json:"prompt_id"`
	Timestamp int64  `json:"timestamp"`
}

// CachedData lists the nodes that need not run.
type CachedData struct {
	Nodes     []string `json:"nodes"`
	PromptID  string   `json:"prompt_id"`
	Timestamp int64    `json:"timestamp"`
}

// ExecutingData names the node that begins to run. Node is nil when the prompt
// is over; DisplayNode is then absent.
type ExecutingData struct {
	Node        *string `json:"node"`
	DisplayNode *string `json:"display_node,omitempty"`
	PromptID    string  `json:"prompt_id,omitempty"`
}

// ProgressData is the older progress bar: of one node.
type ProgressData struct {
	Value    float64 `json:"value"`
	Max      float64 `json:"max"`
	PromptID string  `json:"prompt_id"`
	Node     string  `json:"node"`
}

// ProgressStateData is the newer progress: of all nodes that have begun.
type ProgressStateData struct {
	PromptID string                  `json:"prompt_id"`
	Nodes    map[string]NodeProgress `json:"nodes"`
}

// NodeState is where a node stands in progress_state.
type NodeState string

// The states of a node.
const (
	StatePending  NodeState = "pending"
	StateRunning  NodeState = "running"
	StateFinished NodeState = "finished"
	StateError    NodeState = "error"
)

// NodeProgress is one node's part of progress_state.
type NodeProgress struct {
	Value         float64   `json:"value"`
	Max           float64   `json:"max"`
	State         NodeState `json:"state"`
	NodeID        string    `json:"node_id"`
	PromptID      string    `json:"prompt_id"`
	DisplayNodeID string    `json:"display_node_id"`
	ParentNodeID  *string   `json:"parent_node_id"`
	RealNodeID    string    `json:"real_node_id"`
}

// ExecutedData carries what a node shows in the page. Output may be null.
type ExecutedData struct {
	Node        string          `json:"node"`
	DisplayNode string          `json:"display_node"`
	Output      json.RawMessage `json:"output"`
	PromptID    string          `json:"prompt_id"`
}

// ExecutionErrorData is a failed prompt. NodeID is "" when no node is to blame.
// Newer frontends drop the whole job list if an array here is null or an id is a
// number, hence MarshalJSON.
type ExecutionErrorData struct {
	PromptID         string          `json:"prompt_id"`
	NodeID           string          `json:"node_id"`
	NodeType         string          `json:"node_type"`
	Executed         []string        `json:"executed"`
	ExceptionMessage string          `json:"exception_message"`
	ExceptionType    string          `json:"exception_type"`
	Traceback        []string        `json:"traceback"`
	CurrentInputs    json.RawMessage `json:"current_inputs"`
	CurrentOutputs   json.RawMessage `json:"current_outputs"`
	Timestamp        int64           `json:"timestamp"`
}

// MarshalJSON writes empty arrays and objects where nothing was set.
func (e ExecutionErrorData) MarshalJSON() ([]byte, error) {
	type plain ExecutionErrorData
	p := plain(e)
	p.Executed = notNil(p.Executed)
	p.Traceback = notNil(p.Traceback)
	if isNull(p.CurrentInputs) {
		p.CurrentInputs = json.RawMessage("{}")
	}
	if isNull(p.CurrentOutputs) {
		p.CurrentOutputs = json.RawMessage("[]")
	}
	return encode(p), nil
}

// OutOfMemory reports whether the exception is the device running out of memory,
// under the names it has had.
func (e ExecutionErrorData) OutOfMemory() bool {
	switch e.ExceptionType {
	case "torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError", "OutOfMemoryError":
		return true
	}
	return false
}

// InterruptedData is a prompt that was stopped on request.
type InterruptedData struct {
	PromptID  string   `json:"prompt_id"`
	NodeID    string   `json:"node_id"`
	NodeType  string   `json:"node_type"`
	Executed  []string `json:"executed"`
	Timestamp int64    `json:"timestamp"`
}

// Status makes a status message; sid "" leaves it out.
func Status(remaining int, sid string) Message {
	var d StatusData
	d.Status.ExecInfo.QueueRemaining = remaining
	d.SID = sid
	return Message{TypeStatus, encode(d)}
}

// ExecutionStart makes the first message of a running prompt.
func ExecutionStart(promptID string, tsMillis int64) Message {
	return Message{TypeExecutionStart, encode(ExecutionData{promptID, tsMillis})}
}

// ExecutionSuccess makes the message of a prompt that went well.
func ExecutionSuccess(promptID string, tsMillis int64) Message {
	return Message{TypeExecutionSuccess, encode(ExecutionData{promptID, tsMillis})}
}

// ExecutionCached names the nodes that need not run; it is sent even for none.
func ExecutionCached(nodes []string, promptID string, tsMillis int64) Message {
	return Message{TypeExecutionCached, encode(CachedData{notNil(nodes), promptID, tsMillis})}
}

// Executing says that node begins to run.
func Executing(node, displayNode, promptID string) Message {
	return Message{TypeExecuting, encode(ExecutingData{&node, &displayNode, promptID})}
}

// ExecutingDone is the very last message of a prompt.
func ExecutingDone(promptID string) Message {
	return Message{TypeExecuting, encode(ExecutingData{PromptID: promptID})}
}

// Progress moves the bar of one node.
func Progress(value, maximum float64, promptID, node string) Message {
	return Message{TypeProgress, encode(ProgressData{value, maximum, promptID, node})}
}

// ProgressState tells how far each node has come.
func ProgressState(promptID string, nodes map[string]NodeProgress) Message {
	if nodes == nil {
		nodes = map[string]NodeProgress{}
	}
	return Message{TypeProgressState, encode(ProgressStateData{promptID, nodes})}
}

// Executed carries a node's output, as it is.
func Executed(node, displayNode string, output json.RawMessage, promptID string) Message {
	if len(output) == 0 {
		output = json.RawMessage("null")
	}
	return Message{TypeExecuted, encode(ExecutedData{node, displayNode, output, promptID})}
}

// ExecutionError makes the message of a failed prompt.
func ExecutionError(e ExecutionErrorData) Message {
	return Message{TypeExecutionError, encode(e)}
}

// ExecutionInterrupted makes the message of a prompt that was stopped.
func ExecutionInterrupted(d InterruptedData) Message {
	d.Executed = notNil(d.Executed)
	return Message{TypeExecutionInterrupted, encode(d)}
}

// FeatureFlags tells the other side what this one can do.
func FeatureFlags(flags map[string]any) Message {
	if flags == nil {
		flags = map[string]any{}
	}
	return Message{TypeFeatureFlags, encode(flags)}
}

// Notification shows text to the user; id may name a prompt or be "".
func Notification(value, id string) Message {
	return Message{TypeNotification, encode(struct {
		Value string `json:"value"`
		ID    string `json:"id,omitempty"`
	}{value, id})}
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
