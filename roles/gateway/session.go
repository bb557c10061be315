package gateway

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
)

// Replica is this node's copy of the table as a place in its history: what a
// person has seen at one gateway they must not unsee at another.
type Replica interface {
	// At names the history and the last entry of it that was applied here.
	At() (history string, index uint64)
	// Await returns when an entry has been applied here, or ctx ends.
	Await(ctx context.Context, index uint64) error
}

// seenCookie carries the furthest entry that a browser has seen, as
// HISTORY.INDEX. It is no secret and means nothing to anybody else.
const seenCookie = "comfyume_at"

// staleHeader marks an answer from before what the client has seen: this
// gateway cannot catch up now, and old data is better than none.
const staleHeader = "Comfyume-Stale"

// Bounds of waiting for what a client has seen elsewhere.
const (
	catchUpWithin = 2 * time.Second
	furthest      = 1 << 20 // entries ahead that nobody can have seen
)

// catchUp waits until this gateway knows what the client has seen at another
// one, so that a write is read back and time never goes backwards, wherever the
// next request lands. It reports false when that cannot be waited for.
func (g *Gateway) catchUp(c *call) bool {
	if g.cfg.Replica == nil {
		return true
	}
	history, seen, ok := parseSeen(string(c.Request.Header.Cookie(seenCookie)))
	if !ok {
		return true
	}
	mine, index := g.cfg.Replica.At()
	if history != mine || seen <= index || seen > index+furthest {
		return true
	}
	ctx, cancel := context.WithTimeout(g.life, catchUpWithin)
	defer cancel()
	if err := g.cfg.Replica.Await(ctx, seen); err != nil {
		c.Response.Header.Set(staleHeader, "1")
		return false
	}
	return true
}

var errBehind = cluster.Errorf(cluster.Unavailable, "This server has not heard yet of what you did at another one; nothing was changed. Try again in a moment.")

// fair takes back a refusal of a change by a gateway that is behind: that a file
// does not exist, say, may be because it has not heard of it.
func (c *call) fair() {
	if status := c.Response.StatusCode(); !c.IsGet() && !c.IsHead() && status >= 400 && status < 500 {
		fail(c.RequestCtx, errBehind)
	}
}

// stamp tells the client how far this answer has seen.
func (g *Gateway) stamp(c *call) {
	if g.cfg.Replica == nil || c.Hijacked() {
		return
	}
	mine, index := g.cfg.Replica.At()
	history, seen, ok := parseSeen(string(c.Request.Header.Cookie(seenCookie)))
	if index == 0 || ok && history == mine && seen >= index {
		return
	}
	var k fasthttp.Cookie
	k.SetKey(seenCookie)
	k.SetValue(mine + "." + strconv.FormatUint(index, 10))
	k.SetPath("/")
	k.SetHTTPOnly(true)
	k.SetSecure(secure(c.RequestCtx))
	k.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	c.Response.Header.SetCookie(&k)
}

func parseSeen(s string) (history string, index uint64, ok bool) {
	at := strings.LastIndexByte(s, '.')
	if at <= 0 {
		return "", 0, false
	}
	index, err := strconv.ParseUint(s[at+1:], 10, 64)
	return s[:at], index, err == nil
}
