package agent_test

import (
	"bytes"
	"encoding/json"
	"image/png"
	"net/http"
	"net/netip"
	"testing"

	"github.com/ahelme/comfyume/agent"
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/tailnet/controltest"
	"github.com/ahelme/comfyume/ui"
)

// TestWholePathOverTheTailnet is three machines on a real tailnet whose control
// server and relay stand here: a job is queued on A, a machine that A invited
// runs it, and C, which has no part in either, shows it.
func TestWholePathOverTheTailnet(t *testing.T) {
	control, err := controltest.Start(controltest.Config{IP: netip.MustParseAddr("127.0.0.1"), Tags: []string{cluster.TagCore, cluster.TagGPU}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := control.Close(); err != nil {
			t.Error(err)
		}
	})
	node := func(name string, roles ...cluster.Role) agent.Config {
		cfg := dev(t, t.TempDir())
		cfg.Dev, cfg.Hostname, cfg.Roles, cfg.ControlURL, cfg.TailnetAPI = false, name, roles, control.URL(), control.URL()
		cfg.Vote, cfg.Profile = consensus.VoteAuto, consensus.Site
		return cfg
	}
	// A mints its own key with the OAuth client; C was given one.
	cfgA := node("a", cluster.Queue, cluster.Gateway)
	cfgA.ClientSecret = agent.Secret(control.ClientSecret())
	a := start(t, cfgA)
	cfgC := node("c", cluster.Queue)
	cfgC.AuthKey = agent.Secret(control.NewKey(controltest.KeyOptions{Tags: []string{cluster.TagCore}}))
	c := start(t, cfgC)

	var invitation agent.Invitation
	status, body, _ := a.ask(http.MethodPost, a.site+"/api/node/invite?ttl=1h", "token", "")
	if status != http.StatusOK {
		t.Fatalf("invite: %d %s", status, body)
	}
	if err := json.Unmarshal(body, &invitation); err != nil {
		t.Fatal(err)
	}
	cfgB := node("b", cluster.GPU)
	cfgB.AuthKey, cfgB.ComfyUIURLs = agent.Secret(invitation.Key), []string{"sketch"}
	b := start(t, cfgB)

	until(t, "the worker of b to wait for jobs", func() bool {
		v := a.view()
		return v.Head.Ready && len(v.Workers) == 1 && v.Workers[0].State == "idle"
	})
	id := a.queue(user1, square(0x0080ff))
	img, err := png.Decode(bytes.NewReader(a.picture(user1, id)))
	if err != nil {
		t.Fatal(err)
	}
	if r, g, b, _ := img.At(5, 5).RGBA(); r>>8 != 0 || g>>8 != 0x80 || b>>8 != 0xff {
		t.Errorf("the picture is of %x %x %x", r>>8, g>>8, b>>8)
	}
	for _, n := range []*running{c, b} {
		until(t, "every node to show the job", func() bool {
			for _, j := range n.view().Recent {
				if j.Prompt == id {
					return j.State == "done" && j.Worker == "b/0"
				}
			}
			return false
		})
		if v := n.view(); len(v.Nodes) != 3 || v.Head.Leader == "" {
			t.Errorf("it shows %d nodes led by %q", len(v.Nodes), v.Head.Leader)
		}
	}
}

// view is what the node's dashboard shows.
func (r *running) view() (v ui.View) {
	r.t.Helper()
	r.get(r.site+"/api/status", "token", &v)
	return v
}
