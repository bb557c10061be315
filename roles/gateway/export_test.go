package gateway

import "context"

// ExpireTemp is one look for old temporary files.
func (g *Gateway) ExpireTemp(ctx context.Context) { g.expireTemp(ctx) }
