package gateway

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway/stitch"
)

// history is GET /history: ended jobs, oldest first. offset counts from the
// oldest; max_items without it means the newest.
func (g *Gateway) history(c *call) {
	maxItems, err1 := queryInt(c, "max_items", -1)
	offset, err2 := queryInt(c, "offset", -1)
	if err1 != nil || err2 != nil {
		fail(c.RequestCtx, cluster.Errorf(cluster.Invalid, "max_items and offset are whole numbers"))
		return
	}
	var rows []jobs.Job
	g.cfg.Tables.Jobs(func(t *jobs.Table) { rows = t.History(c.user) })
	g.writeHistory(c, page(rows, maxItems, offset))
}

// page cuts rows as ComfyUI does.
func page[T any](rows []T, maxItems, offset int) []T {
	if offset < 0 {
		if maxItems >= 0 {
			offset = max(0, len(rows)-maxItems)
		} else {
			offset = 0
		}
	}
	rows = rows[min(offset, len(rows)):]
	if maxItems >= 0 {
		rows = rows[:min(maxItems, len(rows))]
	}
	return rows
}

// historyOf is GET /history/{id}: {} for anything that has not ended or is not
// the caller's.
func (g *Gateway) historyOf(c *call) {
	var rows []jobs.Job
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		if j, ok := t.Job(jobs.ID{User: c.user, Prompt: c.params["id"]}); ok && j.State.Ended() && !j.Hidden {
			rows = append(rows, j)
		}
	})
	g.writeHistory(c, rows)
}

func (g *Gateway) writeHistory(c *call, rows []jobs.Job) {
	var out stitch.Writer
	comma := "{"
	for i := range rows {
		j := &rows[i]
		tail, err := g.pieces.get(historyKey(j), func() ([]byte, error) {
			e, err := g.histories.entry(c, j)
			return e.Tail(), err
		})
		if err != nil {
			// One damaged entry must not empty the whole list.
			g.log.Error("a history entry cannot be read", "job", j.ID, "err", err)
			continue
		}
		out.Text(comma + comfy.HistoryEntry{Prompt: comfy.QueueItem{Number: float64(j.EndNumber), PromptID: j.ID.Prompt}}.Head())
		out.Piece(tail)
		comma = ","
	}
	if comma == "{" {
		out.Text("{")
	}
	out.Text("}")
	writeGzip(c, out.Bytes())
}

// historyKey names an ended job's entry: all of it but its number and id.
func historyKey(j *jobs.Job) string {
	return "h/" + string(j.ID.User) + "/" + j.ID.Prompt + "/" + string(j.History) + "/" + string(j.State) + "/" + strconv.FormatInt(j.Ended, 36)
}

// changeHistory is POST /history: clear or delete one's own.
func (g *Gateway) changeHistory(c *call) {
	var body struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	if !g.body(c, &body) {
		return
	}
	if !body.Clear && len(body.Delete) == 0 {
		empty(c.RequestCtx, fasthttp.StatusOK)
		return
	}
	ctx, cancel := context.WithTimeout(c, commitWithin)
	defer cancel()
	if _, err := g.cfg.Propose.Propose(ctx, &jobs.Forget{User: c.user, IDs: body.Delete, All: body.Clear}); err != nil {
		fail(c.RequestCtx, submitError(err))
		return
	}
	empty(c.RequestCtx, fasthttp.StatusOK)
}

// histories reads history blobs and keeps the newest few unpacked entries.
type histories struct {
	blobs blob.Store
	mu    sync.Mutex
	byRef map[cluster.Ref]*list.Element
	order *list.List // of keptEntry, newest first
	bytes int
}

type keptEntry struct {
	ref   cluster.Ref
	entry comfy.HistoryEntry
	size  int
}

// Bounds of the entries kept unpacked, and of one entry, in bytes.
const (
	keepHistory = 8 << 20
	maxHistory  = 64 << 20
)

func newHistories(b blob.Store) *histories {
	return &histories{blobs: b, byRef: map[cluster.Ref]*list.Element{}, order: list.New()}
}

// entry is a job's history entry. Its number is the user's completion counter:
// older pages show a finished job only if its number is above all they know.
func (h *histories) entry(ctx context.Context, j *jobs.Job) (comfy.HistoryEntry, error) {
	e, err := h.stored(ctx, j)
	if err != nil {
		return e, err
	}
	e.Prompt.Number = float64(j.EndNumber)
	e.Prompt.PromptID = j.ID.Prompt
	if e.Status.Completed && j.State != jobs.Done {
		// It was cancelled before its result came: the row was committed first.
		end := comfy.HistoryMessage(terminalOf(j, nil))
		e.Status = comfy.HistoryStatus{StatusStr: comfy.HistoryError, Messages: []comfy.HistoryMessage{comfy.HistoryMessage(comfy.ExecutionStart(j.ID.Prompt, j.Started)), end}}
	}
	return e, nil
}

func (h *histories) stored(ctx context.Context, j *jobs.Job) (comfy.HistoryEntry, error) {
	if j.History == "" {
		return unranEntry(j)
	}
	h.mu.Lock()
	if el, ok := h.byRef[j.History]; ok {
		h.order.MoveToFront(el)
		h.mu.Unlock()
		return el.Value.(keptEntry).entry, nil
	}
	h.mu.Unlock()
	f, err := h.blobs.Open(ctx, j.History)
	if err != nil {
		return comfy.HistoryEntry{}, err
	}
	defer f.Close()
	if f.Size() > maxHistory {
		return comfy.HistoryEntry{}, fmt.Errorf("history of %d bytes: %w", f.Size(), comfy.ErrTooLarge)
	}
	packed, err := io.ReadAll(f)
	if err != nil {
		return comfy.HistoryEntry{}, fmt.Errorf("read history: %w", err)
	}
	raw, err := comfy.Unpack(packed)
	if err != nil {
		return comfy.HistoryEntry{}, err
	}
	var e comfy.HistoryEntry
	if err := json.Unmarshal(raw, &e); err != nil {
		return comfy.HistoryEntry{}, fmt.Errorf("read history: %w", err)
	}
	h.keep(keptEntry{j.History, e, len(raw)})
	return e, nil
}

func (h *histories) keep(k keptEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.byRef[k.ref]; ok {
		return
	}
	h.byRef[k.ref] = h.order.PushFront(k)
	h.bytes += k.size
	for h.bytes > keepHistory && h.order.Len() > 1 {
		last := h.order.Back()
		old := h.order.Remove(last).(keptEntry)
		delete(h.byRef, old.ref)
		h.bytes -= old.size
	}
}

// unranEntry is the history of a job that ended without a worker's report:
// three lost attempts, say. The row still has the prompt.
func unranEntry(j *jobs.Job) (comfy.HistoryEntry, error) {
	var req comfy.PromptRequest
	if len(j.Body) > 0 {
		r, err := comfy.UnpackRequest(j.Body)
		if err != nil {
			return comfy.HistoryEntry{}, err
		}
		req = *r
	}
	extra, err := extraData(j, &req)
	if err != nil {
		return comfy.HistoryEntry{}, err
	}
	e := comfy.HistoryEntry{
		Prompt: comfy.QueueItem{PromptID: j.ID.Prompt, Prompt: req.Prompt, ExtraData: extra, Outputs: req.PartialExecutionTargets},
		Status: comfy.HistoryStatus{StatusStr: comfy.HistoryError},
	}
	start := comfy.ExecutionStart(j.ID.Prompt, j.Created)
	e.Status.Messages = append(e.Status.Messages, comfy.HistoryMessage(start), comfy.HistoryMessage(terminalOf(j, nil)))
	return e, nil
}

// terminalOf is the message that ends a job: the one its history kept, with the
// user's prompt id, else one made from the row.
func terminalOf(j *jobs.Job, e *comfy.HistoryEntry) comfy.Message {
	if e != nil {
		for _, typ := range []string{comfy.TypeExecutionSuccess, comfy.TypeExecutionError, comfy.TypeExecutionInterrupted} {
			if m, ok := e.Status.Message(typ); ok && len(m.Data) > 2 && endsAs(j, typ) {
				if own, err := m.WithPromptID(j.ID.Prompt); err == nil {
					return own
				}
			}
		}
	}
	switch j.State {
	case jobs.Done:
		return comfy.ExecutionSuccess(j.ID.Prompt, j.Ended)
	case jobs.Cancelled:
		return comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: j.ID.Prompt, Timestamp: j.Ended})
	}
	d := comfy.ExecutionErrorData{PromptID: j.ID.Prompt, ExceptionType: "worker_lost", ExceptionMessage: "The job failed.", Timestamp: j.Ended}
	if f := j.Failure; f != nil {
		d.NodeID, d.NodeType, d.ExceptionType, d.ExceptionMessage = f.NodeID, f.NodeType, f.Type, f.Message
	}
	return comfy.ExecutionError(d.WithErrorID())
}

func endsAs(j *jobs.Job, typ string) bool {
	switch typ {
	case comfy.TypeExecutionSuccess:
		return j.State == jobs.Done
	case comfy.TypeExecutionInterrupted:
		return j.State == jobs.Cancelled
	}
	return j.State == jobs.Failed
}

func queryInt(c *call, name string, absent int) (int, error) {
	v := c.QueryArgs().Peek(name)
	if len(v) == 0 {
		return absent, nil
	}
	return strconv.Atoi(string(v))
}
