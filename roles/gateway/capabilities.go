package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

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
	renamed map[string]bool // old class names that workers replace by new ones

	lists listCache
}

func newCapabilities(g *Gateway) *capabilities {
	return &capabilities{g: g, merged: &comfy.Capabilities{}}
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

func (c *capabilities) replaced(class string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.renamed[class]
}

// reload reads the catalogue's documents if they changed. A document that
// cannot be read leaves what was known before.
func (c *capabilities) reload(ctx context.Context) {
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
		return
	}
	var docs []*comfy.Capabilities
	for _, ref := range refs {
		doc, err := c.read(ctx, ref)
		if err != nil {
			c.g.log.Error("a worker's capabilities cannot be read", "ref", ref.Short(), "err", err)
			continue
		}
		docs = append(docs, doc)
	}
	if len(docs) == 0 {
		return
	}
	merged, info, err := merge(docs)
	if err != nil {
		c.g.log.Error("the workers' capabilities cannot be merged", "err", err)
		return
	}
	renamed := map[string]bool{}
	if old, err := comfy.ParseObject(merged.NodeReplacements); err == nil {
		for _, f := range old {
			renamed[f.Key] = true
		}
	}
	c.mu.Lock()
	c.refs, c.merged, c.info, c.renamed = refs, merged, mended(info), renamed
	c.version++
	c.mu.Unlock()
	c.g.log.Info("capabilities known", "workers", len(workers), "classes", info.Len())
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
func merge(docs []*comfy.Capabilities) (*comfy.Capabilities, *comfy.ObjectInfo, error) {
	out := *docs[0]
	info, err := comfy.ParseObjectInfo(docs[0].ObjectInfo)
	if err != nil {
		return nil, nil, fmt.Errorf("object_info: %w", err)
	}
	out.Models = map[string][]string{}
	out.Embeddings = nil
	out.ExperimentModels = maps.Clone(out.ExperimentModels)
	if out.ExperimentModels == nil {
		out.ExperimentModels = map[string]json.RawMessage{}
	}
	for _, d := range docs {
		for folder, names := range d.Models {
			out.Models[folder] = union(out.Models[folder], names)
		}
		out.Embeddings = union(out.Embeddings, d.Embeddings)
	}
	for _, d := range docs[1:] {
		more, err := comfy.ParseObjectInfo(d.ObjectInfo)
		if err != nil {
			return nil, nil, fmt.Errorf("object_info: %w", err)
		}
		var absent []*comfy.Class
		for _, name := range more.Names() {
			if _, ok := info.Class(name); !ok {
				class, _ := more.Class(name)
				absent = append(absent, class)
			}
		}
		info = info.With(absent...)
		for folder, raw := range d.ExperimentModels {
			if _, ok := out.ExperimentModels[folder]; !ok {
				out.ExperimentModels[folder] = raw
			}
		}
	}
	// The parsed form holds every byte; the document need not hold them again.
	out.ObjectInfo = nil
	return &out, info, nil
}

func union(a, b []string) []string {
	for _, s := range b {
		s = strings.ReplaceAll(s, `\`, "/")
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	slices.Sort(a)
	return a
}
