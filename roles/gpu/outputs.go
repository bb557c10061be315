package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// bring fetches the files of a node's output, keeps them, and returns the output
// with the user's own names.
func (a *attempt) bring(ctx context.Context, node string, output json.RawMessage) (json.RawMessage, error) {
	found, err := comfy.OutputFiles(output)
	if err != nil {
		return nil, fmt.Errorf("read the output of node %s: %w", node, err)
	}
	var fresh []files.NewOutput
	var items []comfy.FileItem
	for _, f := range found {
		area := files.Area(f.Item.Type)
		_, had := a.placed[f.Item]
		if had || slices.Contains(items, f.Item) || area != files.Output && area != files.Temp {
			continue
		}
		ref, size, err := a.fetch(ctx, node, f.Item)
		if err != nil {
			return nil, fmt.Errorf("fetch an output of node %s: %w", node, err)
		}
		if err := a.secure(ctx, node, ref); err != nil {
			return nil, fmt.Errorf("keep an output of node %s: %w", node, err)
		}
		items = append(items, f.Item)
		fresh = append(fresh, files.NewOutput{Item: a.key(node, f), Area: area, Sub: cleanSub(a.undo.sub(f.Item.Subfolder)), Name: baseName(f.Item.Filename), Ref: ref, Size: size})
	}
	if len(fresh) > 0 {
		var places []files.Place
		err = a.w.insist(ctx, func(ctx context.Context) error {
			var index uint64
			if places, index, err = a.w.cfg.Queue.Outputs(ctx, a.lease, fresh); err == nil {
				a.index = index
			}
			return err
		})
		if err == nil && len(places) != len(fresh) {
			err = fmt.Errorf("got %d names for %d files", len(places), len(fresh))
		}
		if err != nil {
			return nil, fmt.Errorf("enter outputs of node %s: %w", node, err)
		}
		for i, item := range items {
			a.placed[item] = place{places[i], fresh[i].Ref}
		}
	}
	return a.rename(output)
}

// secure has a result kept by a machine that counts, with patience for one that
// is away.
func (a *attempt) secure(ctx context.Context, node string, ref cluster.Ref) error {
	err := a.w.insist(ctx, func(ctx context.Context) error { return a.w.cfg.Depot.Keep(ctx, a.lease, ref) })
	if cluster.CodeOf(err) == cluster.NoSpace {
		return a.noSpace(node, err)
	}
	return err
}

func (a *attempt) noSpace(node string, err error) error {
	return &refusal{jobs.Failure{Type: "no_space", Message: cluster.MessageOf(err), NodeID: node, NodeType: a.classOf(node)}}
}

// kept reports whether a result is where it was put, with patience likewise.
func (a *attempt) kept(ctx context.Context, ref cluster.Ref) bool {
	limit := time.Now().Add(a.w.cfg.Patience.Lost)
	pause := a.w.backoff()
	for {
		if _, ok := a.w.cfg.Depot.Kept(ctx, a.lease, ref); ok {
			return true
		}
		if _, local := a.w.cfg.Depot.(here); local || time.Now().After(limit) || !pause.wait(ctx) {
			return false
		}
	}
}

// key names an output item so that another attempt gives it the same name.
func (a *attempt) key(node string, f comfy.OutputFile) string {
	k := fmt.Sprintf("%s/%s/%d", node, f.Key, f.Index)
	a.keys[k]++
	if n := a.keys[k]; n > 1 { // a node in a loop shows several under one name
		k = fmt.Sprintf("%s#%d", k, n)
	}
	return k
}

func baseName(name string) string { return path.Base(strings.ReplaceAll(name, `\`, "/")) }

func cleanSub(sub string) string {
	clean, err := files.CleanSubfolder(sub)
	if err != nil {
		return "" // a node that names a folder outside its area
	}
	return clean
}

// rename puts the user's names into an output. Files that the job only read get
// the name that the user gave them.
func (a *attempt) rename(output json.RawMessage) (json.RawMessage, error) {
	own, err := comfy.RewriteOutputFiles(output, func(_ string, _ int, item comfy.FileItem) (comfy.FileItem, error) {
		if p, ok := a.placed[item]; ok {
			return comfy.FileItem{Filename: p.Name, Subfolder: p.Subfolder, Type: string(p.Area)}, nil
		}
		item, _ = a.undo.item(item)
		return item, nil
	})
	if err != nil {
		return nil, err
	}
	return a.undo.raw(own), nil
}

// tries is how often a file is fetched before it counts as not to be had.
const tries = 4

// fetch keeps one file of ComfyUI's. What cannot be had is givenUp: the job may
// do better another time.
func (a *attempt) fetch(ctx context.Context, node string, item comfy.FileItem) (ref cluster.Ref, size int64, err error) {
	pause := a.w.backoff()
	for n := 1; ; n++ {
		ref, size, err = a.fetchOnce(ctx, node, item)
		var status *comfy.StatusError
		switch {
		case err == nil:
			return ref, size, nil
		case context.Cause(ctx) != nil:
			return "", 0, context.Cause(ctx)
		case cluster.CodeOf(err) == cluster.NoSpace:
			return "", 0, a.noSpace(node, err)
		case n < tries:
			a.w.log.Warn("fetching an output", "user", a.row.ID.User, "job", a.row.ID.Prompt, "try", n, "err", err)
			pause.wait(ctx)
			continue
		case errors.As(err, &status) && status.NotFound():
			// It came out of ComfyUI's cache and its file is gone. Without the cache
			// the next attempt makes it anew.
			if err := a.w.client.Free(ctx); err != nil {
				a.w.log.Debug("emptying ComfyUI's cache", "err", err)
			}
			return "", 0, &givenUp{strike: true, reason: "ComfyUI named a result that it does not have any more"}
		}
		a.w.log.Warn("fetching an output", "user", a.row.ID.User, "job", a.row.ID.Prompt, "try", n, "err", err)
		return "", 0, &givenUp{strike: true, reason: "a result could not be read from ComfyUI"}
	}
}

func (a *attempt) fetchOnce(ctx context.Context, node string, item comfy.FileItem) (cluster.Ref, int64, error) {
	ctx, moving, end := whileMoving(ctx)
	defer end()
	body, size, err := a.w.client.View(ctx, item)
	if err != nil {
		return "", 0, err
	}
	defer body.Close()
	raw := &counter{from: moving(body)}
	from, hint := io.Reader(raw), size
	if strings.EqualFold(path.Ext(item.Filename), ".png") {
		from, hint = &pngReader{from: raw, edit: a.ownText(!slices.Contains(a.ran, node))}, -1
	}
	ref, kept, err := a.w.cfg.Blobs.Put(ctx, from, hint)
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("keep an output: %w", err)
	case size >= 0 && raw.n != size:
		return "", 0, fmt.Errorf("got %d bytes of %d: %w", raw.n, size, io.ErrUnexpectedEOF)
	}
	return ref, kept, nil
}

// counter counts what is read through it.
type counter struct {
	from io.Reader
	n    int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}

func (a *attempt) classOf(node string) string {
	if a.graph == nil {
		return ""
	}
	if n, ok := a.graph.Node(node); ok {
		return n.ClassType
	}
	return ""
}
