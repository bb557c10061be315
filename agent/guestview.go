package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/ui"
)

// verbView asks a core node for what its dashboard shows, without what a
// machine that runs participants' code need not know.
const verbView peer.Verb = "view"

// shown is a view on the wire.
type shown struct {
	JSON []byte `cbor:"1,keyasint"`
}

func (s shown) read() (v ui.View, err error) {
	if err := json.Unmarshal(s.JSON, &v); err != nil {
		return v, fmt.Errorf("read a core node's view: %w", err)
	}
	return v, nil
}

// serveView lets nodes that hold no table show this one's.
func serveView(s *peer.Server, source ui.Source) {
	peer.Handle(s, verbView, peer.Workers, func(_ context.Context, who peer.Who, _ struct{}) (shown, error) {
		v := source.View()
		if !who.Core {
			v.Audit = nil
			for i := range v.People {
				v.People[i].Error = ""
			}
			v.Attention = withoutPeople(v.Attention)
		}
		raw, err := json.Marshal(v)
		return shown{raw}, err
	})
}

func withoutPeople(all []ui.Problem) (out []ui.Problem) {
	for _, p := range all {
		if p.User == "" {
			out = append(out, p)
		}
	}
	return out
}

// guestView is the dashboard of a node that holds no table: what a core node
// showed last, with its age, and this node's own health.
type guestView struct{ swarm *swarm }

// View is the last view that was fetched.
func (g *guestView) View() ui.View {
	s := g.swarm
	s.said()
	v, via, at := s.guest.last()
	own := s.report()
	v.Schema, v.Now = ui.SchemaVersion, time.Now().UnixMilli()
	v.Head.Node, v.Head.Version, v.Head.Ready, v.Head.Degraded = s.self.Name, s.self.Version, own.Health.Ready, own.Health.Degraded
	v.Head.Via, v.Head.ReadOnly = via, g.readOnly(v)
	if at.IsZero() {
		v.Workers = own.Workers
		v.Nodes = []ui.Node{{ID: s.self.ID, Name: s.self.Name, Roles: s.self.Roles, Version: s.self.Version, Level: s.self.Level, State: "alive", Disk: own.Disk, Space: own.Space}}
	} else {
		v.Head.Seen = at.UnixMilli()
	}
	s.guest.mu.Lock()
	trouble := s.guest.trouble
	s.guest.mu.Unlock()
	if trouble != "" {
		v.Attention = append([]ui.Problem{{Level: ui.Fail, What: trouble, Cure: "start a node with the role queue; check that both are on the same tailnet"}}, v.Attention...)
	}
	v.Attention = append(own.Problems, v.Attention...)
	return v
}

// Printed is what a ComfyUI of this machine printed; of others it is not told.
func (g *guestView) Printed(ctx context.Context, id cluster.WorkerID, lines int) (out ui.Printed, err error) {
	if !strings.HasPrefix(string(id), g.swarm.self.Name+"/") {
		return out, cluster.Errorf(cluster.Forbidden, "this node only runs jobs and reads its own logs only: use a node that holds the table, see node ls")
	}
	err = g.swarm.client.Call(ctx, g.swarm.self.ID, verbLog, logAsk{id, lines}, &out)
	return out, err
}

// readOnly says where to steer: this machine runs participants' code, so the
// workshop takes no orders from it.
func (g *guestView) readOnly(v ui.View) string {
	var cores []string
	for _, n := range v.Nodes {
		if n.Part != "" && n.State == "alive" {
			cores = append(cores, n.Name)
		}
	}
	if len(cores) == 0 {
		return "This node only runs jobs, and no node that holds the table answers."
	}
	return "This node only runs jobs: it shows the workshop and cannot steer it. Steer from " + strings.Join(cores, " or ") + "."
}

// Pass refuses: a machine that runs participants' code must not see one.
func (g *guestView) Pass(context.Context, string, cluster.User, ui.PassKind) (ui.Pass, error) {
	return ui.Pass{}, cluster.Errorf(cluster.Forbidden, "%s", g.readOnly(g.View()))
}

// Do refuses: see readOnly.
func (g *guestView) Do(context.Context, string, ui.Action) error {
	return cluster.Errorf(cluster.Forbidden, "%s", g.readOnly(g.View()))
}
