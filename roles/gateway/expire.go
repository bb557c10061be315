package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

// Temporary files are kept for as long as a class lasts if nobody says, and looked for now and
// then. Every gateway does so: a second one finds nothing left.
const (
	keepTemp    = 24 * time.Hour
	expireEvery = 10 * time.Minute
)

// expire removes previews and other temporary files when they are old, until ctx
// ends. History goes on naming them, as a ComfyUI's does after a restart.
func (g *Gateway) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.expireTemp(ctx)
			g.expireOutputs(ctx)
		}
	}
}

func (g *Gateway) expireTemp(ctx context.Context) {
	before := g.cfg.Now().Add(-g.cfg.KeepTemp).UnixMilli()
	var users []cluster.User
	g.cfg.Tables.Files(func(t *files.Table) { users = t.Expired(before) })
	for _, u := range users {
		if _, err := g.commit(ctx, &files.Expire{User: u, Before: before}); err != nil {
			if ctx.Err() == nil {
				g.log.Warn("old temporary files were not removed", "user", u, "err", err)
			}
			return
		}
	}
}

// expireOutputs removes results that are older than they are kept, if that was said.
func (g *Gateway) expireOutputs(ctx context.Context) {
	if g.cfg.KeepOutputs <= 0 {
		return
	}
	var old map[cluster.User][]files.Picked
	g.cfg.Tables.Files(func(t *files.Table) { old = t.Old(files.Output, g.cfg.Now().Add(-g.cfg.KeepOutputs).UnixMilli()) })
	for u, all := range old {
		for part := range slices.Chunk(all, files.MaxRemoved) {
			if _, err := g.commit(ctx, &files.Remove{User: u, Files: part}); err != nil {
				if ctx.Err() == nil {
					g.log.Warn("old results were not removed", "user", u, "err", err)
				}
				return
			}
		}
		g.log.Info("old results were removed", "user", u, "files", len(all))
	}
}
