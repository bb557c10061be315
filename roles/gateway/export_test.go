package gateway

import "context"

// ExpireTemp is one look for old temporary files.
// ExpireOutputs looks once for results that are too old.
func (g *Gateway) ExpireOutputs(ctx context.Context) { g.expireOutputs(ctx) }

func (g *Gateway) ExpireTemp(ctx context.Context) { g.expireTemp(ctx) }
