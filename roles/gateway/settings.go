package gateway

import (
	"context"
	"encoding/json"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/roles/comfy"
)

// presets are settings that a workshop's pages start with; what the user sets
// wins. They keep pages from asking the internet for news and from calling the
// assets API that is off.
func presets() map[string]json.RawMessage {
	return map[string]json.RawMessage{
		"Comfy.Notification.ShowVersionUpdates": json.RawMessage("false"),
		"Comfy.Assets.UseAssetAPI":              json.RawMessage("false"),
	}
}

// allSettings are a user's own over the presets.
func (g *Gateway) allSettings(u cluster.User) map[string]json.RawMessage {
	all := presets()
	g.cfg.Tables.Files(func(t *files.Table) {
		for _, s := range t.Settings(u) {
			all[s.Key] = s.Value
		}
	})
	return all
}

func (g *Gateway) settings(c *call) {
	raw, err := json.Marshal(g.allSettings(c.user))
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
}

func (g *Gateway) setting(c *call) {
	v, ok := g.allSettings(c.user)[c.params["id"]]
	if !ok {
		v = json.RawMessage("null")
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, v)
}

// putSettings merges an object of settings.
func (g *Gateway) putSettings(c *call) {
	fields, err := comfy.ParseObject(c.body)
	if err != nil {
		fail(c.RequestCtx, comfy.InvalidJSON(err))
		return
	}
	cmd := &files.PutSettings{User: c.user}
	for _, f := range fields {
		cmd.Settings = append(cmd.Settings, files.Setting{Key: f.Key, Value: f.Value})
	}
	g.commitEmpty(c, cmd)
}

// putSetting stores one value, whatever content type the page gave it.
func (g *Gateway) putSetting(c *call) {
	if !json.Valid(c.body) {
		fail(c.RequestCtx, cluster.Errorf(cluster.Invalid, "A setting's value is JSON."))
		return
	}
	g.commitEmpty(c, &files.PutSettings{User: c.user, Settings: []files.Setting{{Key: c.params["id"], Value: c.body}}})
}

// commitEmpty commits one change and answers 200 without a body.
func (g *Gateway) commitEmpty(c *call, cmd cluster.Command) {
	if _, err := g.commit(c, cmd); err != nil {
		fail(c.RequestCtx, err)
		return
	}
	empty(c.RequestCtx, fasthttp.StatusOK)
}

func (g *Gateway) commit(ctx context.Context, cmd cluster.Command) (cluster.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, commitWithin)
	defer cancel()
	return g.cfg.Propose.Propose(ctx, cmd)
}
