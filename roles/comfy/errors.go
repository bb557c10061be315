package comfy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// ErrorDetail is one complaint in ComfyUI's shape.
type ErrorDetail struct {
	Type      string          `json:"type"`
	Message   string          `json:"message"`
	Details   string          `json:"details"`
	ExtraInfo json.RawMessage `json:"extra_info"`
}

// MarshalJSON writes {} where there is no extra info: pages read into it.
func (d ErrorDetail) MarshalJSON() ([]byte, error) {
	type plain ErrorDetail
	p := plain(d)
	if isNull(p.ExtraInfo) {
		p.ExtraInfo = json.RawMessage("{}")
	}
	return encode(p), nil
}

// UnmarshalJSON also takes a plain string, as some servers answer.
func (d *ErrorDetail) UnmarshalJSON(raw []byte) error {
	if s, ok := text(raw); ok {
		*d = ErrorDetail{Type: "error", Message: s}
		return nil
	}
	type plain ErrorDetail
	var p plain
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	*d = ErrorDetail(p)
	return nil
}

// NodeError is what is wrong with one node and which outputs suffer.
type NodeError struct {
	Errors           []ErrorDetail `json:"errors"`
	DependentOutputs []string      `json:"dependent_outputs"`
	ClassType        string        `json:"class_type"`
}

// NodeErrors are complaints by node id.
type NodeErrors map[string]*NodeError

// MarshalJSON writes {} for nil.
func (n NodeErrors) MarshalJSON() ([]byte, error) {
	if n == nil {
		return []byte("{}"), nil
	}
	return encode(map[string]*NodeError(n)), nil
}

// UnmarshalJSON takes the empty list that older servers send for none.
func (n *NodeErrors) UnmarshalJSON(raw []byte) error {
	if i := skipSpace(raw, 0); isNull(raw) || raw[i] == '[' {
		*n = nil
		return nil
	}
	var m map[string]*NodeError
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	*n = m
	return nil
}

// PromptError is the answer to a prompt that was not accepted. The page shows
// "message: details" and marks the nodes. Status is not on the wire; 0 means 400.
type PromptError struct {
	Status int         `json:"-"`
	Detail ErrorDetail `json:"error"`
	Nodes  NodeErrors  `json:"node_errors"`
}

func (e *PromptError) Error() string {
	if e.Detail.Details == "" {
		return e.Detail.Message
	}
	return e.Detail.Message + ": " + e.Detail.Details
}

// HTTPStatus is the status to answer with.
func (e *PromptError) HTTPStatus() int {
	if e.Status == 0 {
		return http.StatusBadRequest
	}
	return e.Status
}

// WithStatus returns a copy that is answered with another status.
func (e *PromptError) WithStatus(status int) *PromptError {
	c := *e
	c.Status = status
	return &c
}

// ErrorIDLen is the length of the ids by which errors are found, in bytes.
const ErrorIDLen = 8

// errorIDMark stands before such an id, where a page shows it.
const errorIDMark = "Error id "

// WithErrorID returns a copy whose details end with an id: pages show "message:
// details". A ComfyUI says none.
func (e *PromptError) WithErrorID(id string) *PromptError {
	c := *e
	if c.Detail.Details != "" {
		c.Detail.Details += "\n"
	}
	c.Detail.Details += errorIDMark + id
	return &c
}

// WithErrorID puts the id of a job, the beginning of its prompt id, behind the
// message of what went wrong in it: the page's dialog shows that.
func (e ExecutionErrorData) WithErrorID() ExecutionErrorData {
	if e.PromptID != "" {
		e.ExceptionMessage = strings.TrimRight(e.ExceptionMessage, "\n") + "\n" + errorIDMark + e.PromptID[:min(ErrorIDLen, len(e.PromptID))] + "\n"
	}
	return e
}

// Encode writes the body of the answer.
func (e *PromptError) Encode() []byte { return encode(e) }

// NewPromptError makes an error of any type: for what ComfyUI itself never says.
func NewPromptError(typ, message, details string) *PromptError {
	return &PromptError{Detail: ErrorDetail{Type: typ, Message: message, Details: details}}
}

// NoPrompt is the answer to a body without a prompt.
func NoPrompt() *PromptError {
	return NewPromptError("no_prompt", "No prompt provided", "No prompt provided")
}

// EmptyPrompt is the answer to a workflow without nodes.
func EmptyPrompt() *PromptError {
	return NewPromptError("prompt_no_outputs", "The workflow is empty",
		"Add at least one node that saves or previews an image, then queue again.")
}

// NoOutputs is the answer to a prompt none of whose nodes gives a result.
func NoOutputs() *PromptError {
	return NewPromptError("prompt_no_outputs", "Prompt has no outputs", "")
}

// MissingClassType is the answer to a node that does not say what it is.
func MissingClassType(node string) *PromptError {
	return NewPromptError("invalid_prompt", "Cannot execute because a node is missing the class_type property.", fmt.Sprintf("Node ID '#%s'", node))
}

// UnknownClass is the answer to a node of a class that no server has.
func UnknownClass(node, class, title string) *PromptError {
	e := NewPromptError("invalid_prompt", fmt.Sprintf("Cannot execute because node %s does not exist.", class), fmt.Sprintf("Node ID '#%s'", node))
	e.Detail.ExtraInfo = encode(map[string]string{"node_id": node, "class_type": class, "node_title": title})
	return e
}

// OutputsFailed is the answer to a prompt of which no output can be made.
// lines are the complaints about the outputs themselves.
func OutputsFailed(nodes NodeErrors, lines []string) *PromptError {
	e := NewPromptError("prompt_outputs_failed_validation", "Prompt outputs failed validation", strings.Join(lines, "\n"))
	e.Nodes = nodes
	return e
}

// InvalidJSON is the answer to a body that cannot be read at all.
func InvalidJSON(err error) *PromptError {
	return NewPromptError("invalid_prompt", "The request could not be read", err.Error())
}

// StatusError is an HTTP answer of the server that the caller did not hope for.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string // its beginning, for the operator
}

func (e *StatusError) Error() string {
	body := e.Body
	if body != "" {
		body = ": " + body
	}
	return fmt.Sprintf("%s %s answered %d%s", e.Method, e.Path, e.Status, body)
}

// NotFound reports whether the server does not have the thing or the route.
func (e *StatusError) NotFound() bool { return e.Status == http.StatusNotFound }
