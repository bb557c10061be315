package tailnet

import (
	"context"
	"errors"
	"strings"

	"tailscale.com/ipn"

	"github.com/ahelme/comfyume/cluster"
)

// machinesURL is where a person approves machines of a tailnet that wants it.
const machinesURL = "https://login.tailscale.com/admin/machines"

// approval is what a person must do, said once for each URL.
type approval struct {
	cfg Config
	url string
}

func (a *approval) ask(url string) {
	if url == a.url {
		return
	}
	a.url = url
	if a.cfg.Approve != nil {
		a.cfg.Approve(url)
		return
	}
	a.cfg.Logger.Warn("a person must let this node into the tailnet", "url", url)
}

// waited says for what a node waited in vain.
func (a *approval) waited() error {
	if a.url != "" {
		return cluster.Errorf(cluster.Unavailable, "This node waits to be let into the tailnet; open %s, or start it with an auth key.", a.url)
	}
	return cluster.Errorf(cluster.Unavailable, "The tailnet's control server %s did not answer; check this machine's way to the internet, then start again.", a.cfg.ControlURL)
}

// refused puts what the control server says into a sentence with the cure.
func refused(cfg Config, said string) error {
	if strings.Contains(said, "requested tags") {
		return cluster.Errorf(cluster.Forbidden, "The tailnet refused this node's tag (%s); give the tag an owner in the tailnet's policy file, or use a key that was made for it.", said)
	}
	if cfg.AuthKey != "" && strings.Contains(said, "key") {
		said = strings.ReplaceAll(said, cfg.AuthKey, "the key")
		return cluster.Errorf(cluster.Unauthorized, "The tailnet refused this node's key (%s); make a new one with `comfyume-agent node invite` or in the admin console, and start again with it.", said)
	}
	return cluster.Errorf(cluster.Unauthorized, "The tailnet refused this node (%s); let it in again in the admin console, or start it with a new auth key.", said)
}

// follow watches for the day on which the node must be let in again.
func (n *node) follow() {
	n.users.Go(func() {
		ctx, cancel := n.until(context.Background())
		defer cancel()
		w, err := n.client.WatchIPNBus(ctx, ipn.NotifyInitialState)
		if err != nil {
			if ctx.Err() == nil {
				n.cfg.Logger.Error("watching the tailnet's node", "err", err)
			}
			return
		}
		defer func() { _ = w.Close() }()
		door, asked := approval{cfg: n.cfg}, false
		for {
			note, err := w.Next()
			if err != nil {
				return // closed
			}
			if m := note.ErrMessage; m != nil {
				n.cfg.Logger.Error("the tailnet's control server complains", "err", *m)
			}
			if u := note.BrowseToURL; u != nil && *u != "" {
				door.ask(*u)
			}
			if note.State == nil {
				continue
			}
			if *note.State == ipn.Running {
				asked = false
			}
			if *note.State == ipn.NeedsLogin && !asked {
				asked = true
				n.cfg.Logger.Warn("this node's key has expired, the tailnet must let it in again")
				if err := n.askAgain(ctx); err != nil && ctx.Err() == nil {
					n.cfg.Logger.Error("asking to be let in again", "err", err)
				}
			}
		}
	})
}

// askAgain asks with a fresh key, or for a person. The library would go on
// with the key of the first time, which is used up.
func (n *node) askAgain(ctx context.Context) error {
	key, noKey := n.cfg.mint(ctx) // without one a person is asked
	if err := n.client.Start(ctx, ipn.Options{AuthKey: key}); err != nil {
		return errors.Join(noKey, err)
	}
	return errors.Join(noKey, n.client.StartLoginInteractive(ctx))
}
