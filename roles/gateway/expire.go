package gateway

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

// Temporary files are kept for as long as a class lasts, and looked for now and
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
		}
	}
}

func (g *Gateway) expireTemp(ctx context.Context) {
	before := g.cfg.Now().Add(-keepTemp).UnixMilli()
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
