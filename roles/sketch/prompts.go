package sketch

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/uuid"
)

func (s *Server) getPrompt(w http.ResponseWriter, _ *http.Request) {
	writeValue(w, map[string]comfy.ExecInfo{"exec_info": {QueueRemaining: s.queue.remaining()}})
}

func (s *Server) postPrompt(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	answer, err := s.accept(body)
	var refused *comfy.PromptError
	switch {
	case errors.As(err, &refused):
		s.note("refused prompt", "type", refused.Detail.Type)
		writeJSON(w, refused.HTTPStatus(), refused.Encode())
	case err != nil:
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
	default:
		writeJSON(w, http.StatusOK, answer.Encode())
	}
}

// accept checks a prompt and queues it.
func (s *Server) accept(body []byte) (comfy.PromptResponse, error) {
	req, err := comfy.ParsePromptRequest(body)
	if err != nil {
		return comfy.PromptResponse{}, err
	}
	graph, err := comfy.ParseGraph(req.Prompt)
	if err != nil {
		return comfy.PromptResponse{}, comfy.InvalidJSON(err)
	}
	outputs, nodeErrors, refused := comfy.Validate(graph, s.objectInfo(), comfy.ValidateOptions{
		PartialTargets: req.PartialExecutionTargets, FileExists: s.folders.exists, Strict: true,
	})
	if refused != nil {
		return comfy.PromptResponse{}, refused
	}
	id := req.PromptID
	if id == "" {
		id = uuid.NewString()
	}
	now := s.cfg.Now().UnixMilli()
	extra, err := extraData(req, now)
	if err != nil {
		return comfy.PromptResponse{}, comfy.InvalidJSON(err)
	}
	j := &job{
		item:  comfy.QueueItem{Number: s.queue.number(req), PromptID: id, Prompt: req.Prompt, ExtraData: extra, Outputs: outputs},
		graph: graph, clientID: req.ClientID, created: now,
	}
	s.note("got prompt", "prompt_id", id)
	s.queue.put(j)
	return comfy.PromptResponse{PromptID: id, Number: j.item.Number, NodeErrors: nodeErrors}, nil
}

// extraData is what ComfyUI adds to the client's own.
func extraData(req *comfy.PromptRequest, now int64) (json.RawMessage, error) {
	var extra comfy.Object
	if len(req.ExtraData) > 0 {
		var err error
		if extra, err = comfy.ParseObject(req.ExtraData); err != nil {
			return nil, err
		}
	}
	extra.Set("create_time", json.RawMessage(strconv.FormatInt(now, 10)))
	if req.ClientID != "" {
		extra.Set("client_id", jsonText(req.ClientID))
	}
	return extra.MarshalJSON()
}

func (s *Server) getQueue(w http.ResponseWriter, _ *http.Request) {
	running, pending := s.queue.list()
	writeJSON(w, http.StatusOK, comfy.Queue{Running: items(running), Pending: items(pending)}.Encode())
}

func items(jobs []*job) []comfy.QueueItem {
	out := make([]comfy.QueueItem, len(jobs))
	for i, j := range jobs {
		out[i] = j.item
	}
	return out
}

// postQueue clears the queue or takes prompts out of it.
func (s *Server) postQueue(w http.ResponseWriter, r *http.Request) {
	if clear, ids, ok := readDelete(w, r); ok {
		if clear {
			s.queue.remove(nil)
		}
		s.queue.remove(ids)
	}
}

func (s *Server) postHistory(w http.ResponseWriter, r *http.Request) {
	if clear, ids, ok := readDelete(w, r); ok {
		if clear {
			s.history.remove(nil)
		}
		s.history.remove(ids)
	}
}

// readDelete reads {"clear":true} or {"delete":[ids]}; ids is never nil.
func readDelete(w http.ResponseWriter, r *http.Request) (clear bool, ids []string, ok bool) {
	body, ok := readBody(w, r)
	if !ok {
		return false, nil, false
	}
	var ask struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	if json.Unmarshal(body, &ask) != nil {
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return false, nil, false
	}
	return ask.Clear, append([]string{}, ask.Delete...), true
}

func (s *Server) getHistory(w http.ResponseWriter, r *http.Request) {
	limit, ok1 := query(r.URL.Query(), "max_items", -1)
	offset, ok2 := query(r.URL.Query(), "offset", -1)
	if !ok1 || !ok2 {
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return
	}
	if !r.URL.Query().Has("max_items") && offset < 0 {
		offset = 0
	}
	writeHistory(w, s.history.window(offset, limit))
}

func (s *Server) getHistoryOf(w http.ResponseWriter, r *http.Request) {
	if p, ok := s.history.find(r.PathValue("id")); ok {
		writeHistory(w, []past{p})
		return
	}
	writeHistory(w, nil)
}

func writeHistory(w http.ResponseWriter, entries []past) {
	out := make([]comfy.HistoryEntry, len(entries))
	for i, p := range entries {
		out[i] = p.entry
	}
	writeJSON(w, http.StatusOK, comfy.EncodeHistory(out))
}

// postInterrupt stops one prompt, or whatever runs when none is named.
func (s *Server) postInterrupt(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	var ask struct {
		PromptID string `json:"prompt_id"`
	}
	if json.Unmarshal(body, &ask) != nil {
		ask.PromptID = "" // an empty body, or one that cannot be read
	}
	s.queue.interrupt(ask.PromptID)
}

// postFree drops the cache when asked to; there are no models to unload.
func (s *Server) postFree(w http.ResponseWriter, r *http.Request) {
	o, ok := readObject(w, r)
	if !ok {
		return
	}
	if v, _ := o.Lookup("free_memory"); string(v) == "true" {
		s.exec.free()
	}
}

// number reads a whole number as Python's int does.
func number(s string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	return n, err == nil
}
