package comfy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// SecretNames lists the members of extra_data that are a user's credentials.
func SecretNames() []string { return []string{"auth_token_comfy_org", "api_key_comfy_org"} }

// PromptRequest is the body of POST /prompt. Secrets never stand in ExtraData:
// whoever stores or echoes a request must have no way to store or echo them.
type PromptRequest struct {
	Prompt                  json.RawMessage   // as it was sent
	ClientID                string            // "" when absent
	PromptID                string            // "" when the server shall choose
	Number                  *float64          // nil when absent
	Front                   bool              // before all others
	ExtraData               json.RawMessage   // an object, as sent but for secrets and client_id
	PartialExecutionTargets []string          // nil means all outputs
	Secrets                 map[string]string // nil when there are none
}

// ParsePromptRequest reads a body. The error is always a *PromptError. Numbers
// that are no numbers and flags that are no flags are taken as absent; a
// prompt_id may be any safe word, because old clients number theirs.
func ParsePromptRequest(body []byte) (*PromptRequest, error) {
	fields, err := ParseObject(body)
	if err != nil {
		return nil, InvalidJSON(err)
	}
	r := &PromptRequest{}
	prompt, ok := fields.Lookup("prompt")
	if !ok || isNull(prompt) {
		return nil, NoPrompt()
	}
	r.Prompt = prompt
	if v, ok := fields.Lookup("client_id"); ok {
		r.ClientID = scalar(v)
	}
	if v, ok := fields.Lookup("prompt_id"); ok && !isNull(v) {
		r.PromptID = scalar(v)
		if !SafePromptID(r.PromptID) {
			return nil, NewPromptError("invalid_prompt_id", "The prompt_id cannot be used",
				"Use at most 64 letters, digits, '-', '_' or '.', best a lower-case UUID.")
		}
	}
	if v, ok := fields.Lookup("number"); ok && !isNull(v) {
		var n float64
		if json.Unmarshal(v, &n) == nil {
			r.Number = &n
		}
	}
	r.Front = lookupTruthy(fields, "front")
	if v, ok := fields.Lookup("partial_execution_targets"); ok && !isNull(v) {
		targets, err := ParseArray(v)
		if err != nil {
			return nil, InvalidJSON(fmt.Errorf("partial_execution_targets: %w", err))
		}
		r.PartialExecutionTargets = make([]string, len(targets))
		for i, t := range targets {
			r.PartialExecutionTargets[i] = scalar(t)
		}
	}
	if v, ok := fields.Lookup("extra_data"); ok {
		if err := r.setExtraData(v); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// setExtraData splits off what must not travel with the rest.
func (r *PromptRequest) setExtraData(raw json.RawMessage) error {
	if isNull(raw) {
		return nil
	}
	extra, err := ParseObject(raw)
	if err != nil {
		return InvalidJSON(fmt.Errorf("extra_data: %w", err))
	}
	before := len(extra)
	for _, name := range SecretNames() {
		if v, ok := extra.Lookup(name); ok {
			if s := scalar(v); s != "" {
				if r.Secrets == nil {
					r.Secrets = map[string]string{}
				}
				r.Secrets[name] = s
			}
			extra.Delete(name)
		}
	}
	extra.Delete("client_id")
	if len(extra) == before {
		r.ExtraData = raw
		return nil
	}
	r.ExtraData = extra.bytes()
	return nil
}

// Encode writes the body that a client sends. Secrets go back into extra_data.
func (r *PromptRequest) Encode() (json.RawMessage, error) {
	body := Object{{"prompt", r.Prompt}}
	if r.ClientID != "" {
		body.Set("client_id", quote(r.ClientID))
	}
	if r.PromptID != "" {
		body.Set("prompt_id", quote(r.PromptID))
	}
	if r.Number != nil {
		body.Set("number", encode(*r.Number))
	}
	if r.Front {
		body.Set("front", json.RawMessage("true"))
	}
	if r.PartialExecutionTargets != nil {
		body.Set("partial_execution_targets", encode(r.PartialExecutionTargets))
	}
	var extra Object
	if !isNull(r.ExtraData) {
		var err error
		if extra, err = ParseObject(r.ExtraData); err != nil {
			return nil, fmt.Errorf("write extra_data: %w", err)
		}
	}
	for _, name := range SecretNames() {
		if s, ok := r.Secrets[name]; ok {
			extra.Set(name, quote(s))
		}
	}
	if extra != nil {
		body.Set("extra_data", extra.bytes())
	}
	return body.bytes(), nil
}

// WorkflowID is extra_data.extra_pnginfo.workflow.id, or "".
func WorkflowID(extraData json.RawMessage) string {
	var extra struct {
		PNGInfo struct {
			Workflow struct {
				ID json.RawMessage `json:"id"`
			} `json:"workflow"`
		} `json:"extra_pnginfo"`
	}
	if json.Unmarshal(extraData, &extra) != nil {
		return ""
	}
	id, _ := text(extra.PNGInfo.Workflow.ID)
	return id
}

// SafePromptID reports whether an id may be used as one: it ends up in paths,
// logs and map keys.
func SafePromptID(id string) bool {
	if id == "" || len(id) > 64 || strings.Trim(id, ".") == "" {
		return false
	}
	return !slices.ContainsFunc([]byte(id), func(c byte) bool { return !wordByte(c) || c == '+' })
}

// PromptResponse is the answer to an accepted prompt. NodeErrors may name nodes
// of outputs that will not be made although others will.
type PromptResponse struct {
	PromptID   string     `json:"prompt_id"`
	Number     float64    `json:"number"`
	NodeErrors NodeErrors `json:"node_errors"`
}

// Encode writes the body of the answer.
func (r PromptResponse) Encode() []byte { return encode(r) }

// scalar reads a string, or a number or word as it is written.
func scalar(raw json.RawMessage) string {
	if s, ok := text(raw); ok {
		return s
	}
	if isNull(raw) || raw[0] == '{' || raw[0] == '[' {
		return ""
	}
	return string(raw)
}

// lookupTruthy is Python's idea of true for the values that clients send.
func lookupTruthy(o Object, key string) bool {
	v, ok := o.Lookup(key)
	if !ok {
		return false
	}
	switch string(v) {
	case "null", "false", "0", `""`, "[]", "{}", "0.0":
		return false
	}
	return true
}
