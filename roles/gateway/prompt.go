package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// commitWithin bounds how long a page waits for its prompt to be committed; its
// own patience is 60 s.
const commitWithin = 20 * time.Second

// prompt is POST /prompt.
func (g *Gateway) prompt(c *call) {
	resp, err := g.Submit(c, c.user, c.body)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, resp.Encode())
}

// Submit validates a POST /prompt body for a user and answers after the job
// was committed. Errors are *comfy.PromptError (ComfyUI's own refusals) or
// *cluster.Error.
func (g *Gateway) Submit(ctx context.Context, user cluster.User, body []byte) (comfy.PromptResponse, error) {
	req, err := comfy.ParsePromptRequest(body)
	if err != nil {
		return comfy.PromptResponse{}, err
	}
	if len(req.ClientID) > maxClientID {
		// It stands in the row; a page's own is a UUID.
		return comfy.PromptResponse{}, comfy.NewPromptError("invalid_client_id", "The client_id cannot be used", fmt.Sprintf("Use at most %d bytes.", maxClientID))
	}
	info := g.caps.objectInfo()
	graph, err := comfy.ParseGraph(req.Prompt)
	if err != nil {
		return comfy.PromptResponse{}, comfy.InvalidJSON(err)
	}
	if info != nil { // a refusal shows what can be chosen
		if info, err = g.offered(user).apply(info, graph.Classes()); err != nil {
			return comfy.PromptResponse{}, err
		}
	}
	outputs, nodeErrors, refusal := comfy.Validate(graph, info, g.checks(user, req, info))
	if refusal != nil {
		return comfy.PromptResponse{}, refusal
	}
	if err := g.cfg.Room(user, 0); err != nil {
		return comfy.PromptResponse{}, roomError(err)
	}
	if g.cfg.Quota != nil {
		if err := g.cfg.Quota(user); err != nil {
			return comfy.PromptResponse{}, submitError(err)
		}
	}
	if req.PromptID == "" {
		req.PromptID = uuid.NewString()
	}
	cmd, err := g.submitOf(user, req, graph, info)
	if err != nil {
		return comfy.PromptResponse{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, commitWithin)
	defer cancel()
	if len(req.Secrets) > 0 {
		// Before the commit: the worker may ask the moment it is assigned.
		g.secrets.put(cmd.ID, req.Secrets)
		cmd.Secrets = g.cfg.Node
		defer g.release(user, req.Secrets)
	}
	out, err := g.cfg.Propose.Propose(ctx, cmd)
	g.keepOnlyNeeded(cmd.ID, err)
	if err != nil {
		return comfy.PromptResponse{}, submitError(err)
	}
	var acc jobs.Accepted
	if err := out.Decode(&acc); err != nil {
		return comfy.PromptResponse{}, err
	}
	g.warm(cmd.ID)
	g.tellWaiting(req.ClientID, cmd.ID, outputs)
	return comfy.PromptResponse{PromptID: req.PromptID, Number: float64(queueBase + acc.Number), NodeErrors: nodeErrors}, nil
}

// checks are what a workflow is held against. While this gateway does not know
// what any worker has (none has ever joined, or the machine that knew is away),
// only its shape is checked: it waits for a worker that has its kinds of node,
// and that one's ComfyUI has the last word.
func (g *Gateway) checks(user cluster.User, req *comfy.PromptRequest, info *comfy.ObjectInfo) comfy.ValidateOptions {
	if info == nil {
		return comfy.ValidateOptions{Replaced: func(string) bool { return true }}
	}
	return comfy.ValidateOptions{
		PartialTargets: req.PartialExecutionTargets,
		FileExists:     func(name string) bool { _, ok := g.userFile(user, name); return ok },
		FolderExists:   func(name string) bool { return len(g.folder(user, name)) > 0 },
		Replaced:       g.caps.replaced,
	}
}

// submitOf makes the command.
func (g *Gateway) submitOf(user cluster.User, req *comfy.PromptRequest, graph *comfy.Graph, info *comfy.ObjectInfo) (*jobs.Submit, error) {
	packed, hash, err := comfy.PackRequest(req)
	if err != nil {
		return nil, err
	}
	if len(packed) > jobs.MaxBody {
		return nil, cluster.Errorf(cluster.TooLarge, "This workflow is too large to queue: %d kB after compression, the limit is %d kB. Images pasted into nodes are the usual cause: upload them instead.", len(packed)>>10, jobs.MaxBody>>10)
	}
	inputs, err := g.inputsOf(user, graph)
	if err != nil {
		return nil, err
	}
	cmd := &jobs.Submit{
		ID: jobs.ID{User: user, Prompt: req.PromptID}, ClientID: req.ClientID, BodyHash: hash, Body: packed,
		Inputs: inputs, Classes: graph.Classes(), WorkflowID: comfy.WorkflowID(req.ExtraData), Title: titleOf(graph),
		Priority: jobs.Normal, Front: req.Front, MaxWaiting: g.cfg.MaxWaiting,
		Models: graph.Models(), Form: graph.Form(),
	}
	slices.Sort(cmd.Classes)
	cmd.Classes = slices.Compact(cmd.Classes)
	cmd.Classes = slices.DeleteFunc(cmd.Classes, g.caps.replaced)
	for _, name := range cmd.Classes {
		if class, ok := info.Class(name); ok && class.APINode {
			cmd.APINodes = true
		}
	}
	if user == g.cfg.PriorityUser {
		cmd.Priority = jobs.Instructor
	}
	return cmd, nil
}

// submitError turns a refused commit into what the page shows.
func submitError(err error) error {
	var known *cluster.Error
	if !errors.As(err, &known) {
		return err
	}
	switch known.Code {
	case cluster.Quota:
		return comfy.NewPromptError("queue_full", "The queue is full", known.Message).WithStatus(fasthttp.StatusTooManyRequests)
	case cluster.NoLeader, cluster.Unavailable:
		return comfy.NewPromptError("unavailable", "The workshop's queue cannot take jobs right now", known.Message+" Nothing is lost: queue it again in a moment.").WithStatus(fasthttp.StatusServiceUnavailable)
	case cluster.Conflict:
		return comfy.NewPromptError("prompt_id_used", "This prompt_id is taken", known.Message).WithStatus(fasthttp.StatusConflict)
	}
	return err
}

// roomError likewise, of a job whose results would have no room.
func roomError(err error) error {
	kind := ""
	switch cluster.CodeOf(err) {
	case cluster.NoSpace:
		kind = "no_space"
	case cluster.Quota:
		kind = "disk_quota"
	default:
		return err
	}
	return comfy.NewPromptError(kind, "The job was not queued", cluster.MessageOf(err)).WithStatus(cluster.CodeOf(err).Status())
}

// titleOf is what a queue shows of a workflow: its most telling node class.
func titleOf(g *comfy.Graph) string {
	classes := g.Classes()
	for _, telling := range []string{"CheckpointLoaderSimple", "UNETLoader", "DiffusionModelLoader"} {
		for _, n := range g.Nodes {
			if n.ClassType == telling {
				for _, in := range n.Inputs {
					if v, ok := n.Text(in.Name); ok && v != "" {
						return v
					}
				}
			}
		}
	}
	for _, c := range classes {
		if c == "SketchSlow" || c == "SketchFail" {
			return c
		}
	}
	if len(classes) > 0 {
		return classes[len(classes)-1]
	}
	return ""
}

// maxSet is how many files of folders one job may bring along.
const maxSet = 2000

// inputsOf collects the files of the user that the graph names: every string
// that is, after its " [type]", a file they have, and what lies in folders that
// nodes read as a whole.
func (g *Gateway) inputsOf(user cluster.User, graph *comfy.Graph) ([]jobs.Input, error) {
	var out []jobs.Input
	seen := map[string]bool{}
	add := func(value string, f files.File) {
		if !seen[value] {
			seen[value] = true
			out = append(out, jobs.Input{Value: value, Name: f.Place.Name, Ref: f.Ref, Size: f.Size})
		}
	}
	err := graph.Strings(func(n *comfy.Node, input, value string) (string, error) {
		if value == "" || len(value) > 1500 {
			return value, nil
		}
		if comfy.ReadsFolder(n.ClassType, input) {
			set := g.folder(user, value)
			if len(set) > maxSet {
				return "", cluster.Errorf(cluster.TooLarge, "The folder %q has %d files; a job can bring %d along. Use a smaller folder.", value, len(set), maxSet)
			}
			for _, f := range set {
				add(f.Place.Subfolder+"/"+f.Place.Name, f)
			}
		}
		if !seen[value] {
			if f, ok := g.userFile(user, value); ok {
				add(value, f)
			}
		}
		return value, nil
	})
	return out, err
}

// folder lists what a user has in a folder of their inputs, and below it.
func (g *Gateway) folder(user cluster.User, name string) (out []files.File) {
	if name == "" {
		return nil
	}
	g.cfg.Tables.Files(func(t *files.Table) {
		for _, f := range t.Files(user, files.Input) {
			if f.Place.Subfolder == name || strings.HasPrefix(f.Place.Subfolder, name+"/") {
				out = append(out, f)
			}
		}
	})
	return out
}

// userFile finds a file by a graph's way of naming it: "a.png",
// "sub/a.png [output]".
func (g *Gateway) userFile(user cluster.User, value string) (f files.File, ok bool) {
	base, folder := comfy.SplitAnnotation(value)
	p, err := placeOf(base, folder)
	if err != nil {
		return files.File{}, false
	}
	g.cfg.Tables.Files(func(t *files.Table) { f, ok = t.File(user, p) })
	return f, ok
}

// queueBase lifts the numbers of waiting jobs above those of history: older
// pages hide a finished job whose number is not above all they have seen.
const queueBase = 1_000_000

// promptInfo is GET /prompt.
func (g *Gateway) promptInfo(c *call) {
	raw, err := json.Marshal(map[string]any{"exec_info": map[string]int{"queue_remaining": g.remaining(c.user)}})
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
}

func (g *Gateway) remaining(u cluster.User) (n int) {
	g.cfg.Tables.Jobs(func(t *jobs.Table) { n = t.Remaining(u) })
	return n
}
