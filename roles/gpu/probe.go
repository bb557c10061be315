package gpu

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/roles/comfy"
)

// probeTimeout bounds one look at ComfyUI: object_info of a large installation
// takes many seconds.
const probeTimeout = 3 * time.Minute

// probe learns what ComfyUI can do and registers it if it is not what was
// registered before.
func (w *Worker) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	stats, err := w.systemStats(ctx)
	if err != nil {
		return err
	}
	w.checkVersion(stats)
	caps, info, err := w.capabilities(ctx, stats)
	if err != nil {
		return err
	}
	classes := make(map[string]bool, info.Len())
	for _, name := range info.Names() {
		classes[name] = true
	}
	if err := w.register(ctx, stats, caps); err != nil {
		return err
	}
	w.classes, w.models, w.windows, w.probed = classes, modelsOf(info), backslashed(info), true
	return nil
}

// maxModels bounds what a claim names, in bytes: a request must not be over the
// limit for it.
const maxModels = 512 << 10

// modelsOf are the model files that ComfyUI lists; nil if they are too many to
// be named each time.
func modelsOf(info *comfy.ObjectInfo) map[string]bool {
	all, size := info.Models(), 0
	for name := range all {
		size += len(name) + 4
	}
	if size > maxModels {
		return nil
	}
	return all
}

// checkVersion keeps a worker of another version than it shall be from jobs:
// templates are saved for one version, and run otherwise, or not, on another.
func (w *Worker) checkVersion(stats comfy.SystemStats) {
	got, want := stats.System.ComfyUIVersion, strings.TrimPrefix(w.cfg.Version, "v")
	if want == "" || strings.TrimPrefix(got, "v") == want {
		w.Return(WrongVersion)
		return
	}
	w.StandAside(WrongVersion, fmt.Sprintf("ComfyUI here is of version %s and shall be %s (--comfyui-version): install that one.", cmp.Or(got, "unknown"), want))
}

// register stores the capabilities and enters them. Free memory moves with
// every look, so it does not count as a change.
func (w *Worker) register(ctx context.Context, stats comfy.SystemStats, caps *comfy.Capabilities) error {
	steady := *caps
	steady.SystemStats = withoutFree(stats)
	raw, err := json.Marshal(&steady)
	if err != nil {
		return fmt.Errorf("describe ComfyUI: %w", err)
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	if digest == w.known {
		return nil
	}
	packed, err := caps.Encode()
	if err != nil {
		return fmt.Errorf("describe ComfyUI: %w", err)
	}
	ref, size, err := w.cfg.Blobs.Put(ctx, bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		return fmt.Errorf("store what ComfyUI can do: %w", err)
	}
	if err := w.cfg.Depot.Keep(ctx, jobs.Lease{}, ref); err != nil {
		return fmt.Errorf("store what ComfyUI can do: %w", err)
	}
	row := models.Worker{ID: w.cfg.ID, Node: w.cfg.Node, Version: stats.System.ComfyUIVersion, Caps: ref, CapsSize: size}
	if len(stats.Devices) > 0 {
		row.Device, row.VRAM = stats.Devices[0].Name, stats.Devices[0].VRAMTotal
	}
	if err := w.cfg.Register(ctx, row); err != nil {
		return fmt.Errorf("register the worker: %w", err)
	}
	w.known = digest
	w.log.Info("ComfyUI is known", "version", row.Version, "device", row.Device, "capabilities", ref.Short())
	return nil
}

func withoutFree(stats comfy.SystemStats) json.RawMessage {
	stats.System.RAMFree = 0
	devices := append([]comfy.Device(nil), stats.Devices...)
	for i := range devices {
		devices[i].VRAMFree, devices[i].TorchVRAMFree, devices[i].TorchVRAMTotal = 0, 0, 0
	}
	stats.Devices = devices
	return stats.Encode()
}

// capabilities asks for everything. Only object_info must be there: servers of
// other ages lack some of the rest.
func (w *Worker) capabilities(ctx context.Context, stats comfy.SystemStats) (*comfy.Capabilities, *comfy.ObjectInfo, error) {
	raw, err := w.client.GetJSON(ctx, "/object_info")
	if err != nil {
		return nil, nil, fmt.Errorf("ask for the list of nodes: %w", err)
	}
	info, err := comfy.ParseObjectInfo(raw)
	if err != nil {
		return nil, nil, err
	}
	if info.Len() == 0 {
		// Served on, an empty list would open every page with all nodes missing.
		return nil, nil, errors.New("ask for the list of nodes: it is empty")
	}
	c := &comfy.Capabilities{SystemStats: stats.Raw, ObjectInfo: raw, Models: map[string][]string{}, ExperimentModels: map[string]json.RawMessage{}}
	a := asker{client: w.client, ctx: ctx}
	a.into("/extensions", &c.Extensions)
	a.into("/embeddings", &c.Embeddings)
	c.I18n, c.Features = a.raw("/i18n"), a.raw("/features")
	c.GlobalSubgraphs, c.NodeReplacements = a.raw("/global_subgraphs"), a.raw("/node_replacements")
	var folders []string
	a.into("/models", &folders)
	for _, f := range folders {
		var names []string
		a.into("/models/"+url.PathEscape(f), &names)
		c.Models[f] = names
	}
	var described []struct {
		Name string `json:"name"`
	}
	a.into("/experiment/models", &described)
	for _, f := range described {
		c.ExperimentModels[f.Name] = a.raw("/experiment/models/" + url.PathEscape(f.Name))
	}
	w.mirror(&a, c)
	return c, info, a.err
}

// asker makes calls in a row. A route that is not there, or answers with an
// error, gives nothing; the first broken connection ends it.
type asker struct {
	client *comfy.Client
	ctx    context.Context // of one probe
	err    error
}

func (a *asker) raw(path string) json.RawMessage {
	if a.err != nil {
		return nil
	}
	raw, err := a.client.GetJSON(a.ctx, path)
	var status *comfy.StatusError
	switch {
	case errors.As(err, &status), errors.Is(err, comfy.ErrMalformed):
		return nil
	case err != nil:
		a.err = fmt.Errorf("ask what ComfyUI can do: %w", err)
		return nil
	}
	return raw
}

// into leaves v alone when the answer is of another shape.
func (a *asker) into(path string, v any) {
	if raw := a.raw(path); raw != nil {
		_ = json.Unmarshal(raw, v)
	}
}

// object writes an object as it stands.
func object(o comfy.Object) json.RawMessage {
	raw, err := o.MarshalJSON()
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}

// backslashed maps the names with slashes that users know to those that a
// ComfyUI on Windows lists.
func backslashed(info *comfy.ObjectInfo) map[string]string {
	out := map[string]string{}
	for _, name := range info.Names() {
		class, _ := info.Class(name)
		for _, in := range class.Inputs {
			for _, option := range in.OptionNames() {
				if slashed := comfy.SlashedName(option); slashed != option {
					out[slashed] = option
				}
			}
		}
	}
	return out
}
