package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/roles/comfy"
)

// capabilities are what the workers last said of themselves, merged: the union
// of their nodes and models, so that every saved workflow opens. They outlive
// the workers: without a GPU, pages open and edit as before.
type capabilities struct {
	g *Gateway

	mu      sync.RWMutex
	refs    []cluster.Ref // of the documents that were merged
	version int           // rises with each merge
	info    *comfy.ObjectInfo
	merged  *comfy.Capabilities
	renamed map[string]bool               // old class names that workers replace by new ones
	each    map[cluster.Ref][]WorkerLacks // by document

	pages   map[string]comfy.WebFile // see webFiles
	loading sync.Mutex               // held by reload
	told    map[cluster.Ref]bool     // documents whose absence was logged; reload's own
	lacking atomic.Bool              // a document could not be read: it is tried again
	lists   listCache
}

func newCapabilities(g *Gateway) *capabilities {
	return &capabilities{g: g, merged: &comfy.Capabilities{}, told: map[cluster.Ref]bool{}}
}

// objectInfo is the merged description of all nodes; nil when no worker has
// ever been seen.
func (c *capabilities) objectInfo() *comfy.ObjectInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.info
}

func (c *capabilities) doc() *comfy.Capabilities {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.merged
}

// web is what custom nodes bring for the page, by decoded path.
func (c *capabilities) web() map[string]comfy.WebFile {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.pages
}

func (c *capabilities) replaced(class string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.renamed[class]
}

// lacks is what workers with this document lack of the templates; false if it
// was not read yet.
func (c *capabilities) lacks(ref cluster.Ref) ([]WorkerLacks, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list, ok := c.each[ref]
	return list, ok
}

// renames are the old class names of a list of replacements.
func renames(replacements json.RawMessage) map[string]bool {
	out := map[string]bool{}
	if old, err := comfy.ParseObject(replacements); err == nil {
		for _, f := range old {
			out[f.Key] = true
		}
	}
	return out
}

// reload reads the catalogue's documents if they changed. A document that
// cannot be read leaves what was known before.
func (c *capabilities) reload(ctx context.Context) {
	c.loading.Lock()
	defer c.loading.Unlock()
	var workers []models.Worker
	c.g.cfg.Tables.Models(func(t *models.Table) { workers = t.Workers() })
	// The newest first: where two differ, it speaks for the class.
	slices.SortStableFunc(workers, func(a, b models.Worker) int { return int(b.Changed - a.Changed) })
	var refs []cluster.Ref
	for _, w := range workers {
		if !slices.Contains(refs, w.Caps) {
			refs = append(refs, w.Caps)
		}
	}
	c.mu.RLock()
	same := slices.Equal(refs, c.refs)
	c.mu.RUnlock()
	if same || len(refs) == 0 {
		c.lacking.Store(false)
		return
	}
	var docs []*comfy.Capabilities
	var had []cluster.Ref
	for _, ref := range refs {
		doc, err := c.read(ctx, ref)
		if err != nil {
			if !c.told[ref] { // once, not at every try
				c.told[ref] = true
				c.g.log.Warn("a worker's capabilities cannot be read now; they are tried again", "ref", ref.Short(), "err", err)
			}
			continue
		}
		docs, had = append(docs, doc), append(had, ref)
	}
	c.lacking.Store(len(had) < len(refs))
	c.mu.RLock()
	same = slices.Equal(had, c.refs) || len(had) == 0
	c.mu.RUnlock()
	if same {
		return
	}
	merged, info, infos, err := merge(docs)
	if err != nil {
		c.g.log.Error("the workers' capabilities cannot be merged", "err", err)
		return
	}
	each := map[cluster.Ref][]WorkerLacks{}
	for i, ref := range had {
		each[ref] = c.g.templates.compare(infos[i], docs[i])
	}
	c.mu.Lock()
	c.pages = webFiles(merged)
	c.refs, c.merged, c.info, c.renamed, c.each = had, merged, mended(info), renames(merged.NodeReplacements), each
	c.version++
	c.mu.Unlock()
	c.g.log.Info("capabilities known", "workers", len(workers), "classes", info.Len())
}

// lookAgain is how often a worker's description is tried to be had that could
// not be read: the machine that keeps it was away.
const lookAgain = 2 * time.Second

// run tries again what could not be read, until ctx ends.
func (c *capabilities) run(ctx context.Context) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if c.lacking.Load() {
				c.reload(ctx)
			}
		}
	}
}

func (c *capabilities) read(ctx context.Context, ref cluster.Ref) (*comfy.Capabilities, error) {
	f, err := c.g.cfg.Blobs.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return comfy.DecodeCapabilities(f)
}

// merge makes the union; the first document speaks where one value is served.
// Infos are the parsed ones of each document.
func merge(docs []*comfy.Capabilities) (merged *comfy.Capabilities, info *comfy.ObjectInfo, infos []*comfy.ObjectInfo, err error) {
	out := *docs[0]
	out.Models, out.Embeddings, out.Extensions = map[string][]string{}, nil, nil
	out.ExperimentModels, out.Metadata, out.Previews = map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]comfy.WebFile{}
	out.Subgraphs, out.Web = map[string]json.RawMessage{}, map[string]comfy.WebFile{}
	infos = make([]*comfy.ObjectInfo, len(docs))
	for i, d := range docs {
		if infos[i], err = comfy.ParseObjectInfo(d.ObjectInfo); err != nil {
			return nil, nil, nil, fmt.Errorf("object_info: %w", err)
		}
		for folder, names := range d.Models {
			out.Models[folder] = union(out.Models[folder], names)
		}
		out.Embeddings = union(out.Embeddings, d.Embeddings)
		for _, path := range d.Extensions {
			if !slices.Contains(out.Extensions, path) {
				out.Extensions = append(out.Extensions, path)
			}
		}
		fillIn(out.ExperimentModels, d.ExperimentModels)
		fillIn(out.Metadata, d.Metadata)
		fillIn(out.Previews, d.Previews)
		fillIn(out.Subgraphs, d.Subgraphs)
		fillIn(out.Web, d.Web)
		out.I18n = comfy.MergeObjects(out.I18n, d.I18n)
		out.NodeReplacements = comfy.MergeObjects(out.NodeReplacements, d.NodeReplacements)
	}
	// The parsed form holds every byte; the document need not hold them again.
	out.ObjectInfo = nil
	return &out, comfy.MergeObjectInfo(infos...), infos, nil
}

// fillIn adds what is not there.
func fillIn[V any](to, from map[string]V) {
	for k, v := range from {
		if _, ok := to[k]; !ok {
			to[k] = v
		}
	}
}

func union(a, b []string) []string {
	have := make(map[string]bool, len(a)+len(b))
	for _, s := range a {
		have[s] = true
	}
	for _, s := range b {
		if s = comfy.SlashedName(s); !have[s] {
			have[s] = true
			a = append(a, s)
		}
	}
	slices.Sort(a)
	return a
}
