package agent

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/ui"
)

// report is what a node says of itself to the core nodes once a second: what
// only it can know, and what no table holds.
type report struct {
	Member   cluster.Member                   `json:"member"`
	Workers  []ui.Worker                      `json:"workers,omitempty"`
	Sockets  map[cluster.User]int             `json:"sockets,omitempty"` // open pages of each user
	Troubles map[cluster.User]gateway.Problem `json:"troubles,omitempty"`
	Lacks    []lack                           `json:"lacks,omitempty"`
	Frontend string                           `json:"frontend,omitempty"` // version that its door serves
	Door     string                           `json:"door,omitempty"`     // how its door is reached, "" = it has none
	Health   Report                           `json:"health"`
	Problems []ui.Problem                     `json:"problems,omitempty"`
	Log      *consensus.Status                `json:"log,omitempty"` // of core nodes
	Disk     int                              `json:"disk"`          // per cent used, -1 = unknown
	Space    *ui.Space                        `json:"space,omitempty"`
	Lost     []string                         `json:"lost,omitempty"`    // some of Missing, by the beginning of their names
	Missing  int                              `json:"missing"`           // blobs that it should hold and does not
	Backups  []ui.Backup                      `json:"backups,omitempty"` // of the places that this node keeps
	Waits    string                           `json:"waits,omitempty"`
	Bill     *bill                            `json:"bill,omitempty"`     // what the machine costs, if that was said
	Forecast *policy.Forecast                 `json:"forecast,omitempty"` // of the node that leads
}

// maxReport bounds what is read of another node's report, in bytes.
const maxReport = 1 << 20

// reports keeps the newest report of every node.
type reports struct {
	mu  sync.Mutex
	all map[cluster.NodeID]heardOf
}

type heardOf struct {
	report
	at time.Time
}

// forgetReports is how long the last report of a silent node is shown.
const (
	forgetReports = 24 * time.Hour
	maxReports    = 500
)

func newReports() *reports { return &reports{all: map[cluster.NodeID]heardOf{}} }

// take keeps another node's report. What it says of who it is counts for
// nothing: the network knows that, and its workers are called by its name.
func (r *reports) take(who peer.Who, raw []byte) {
	var in report
	if len(raw) > maxReport || json.Unmarshal(raw, &in) != nil {
		return
	}
	in.Member.ID, in.Member.Name = who.Node, who.Name
	in.Workers = slices.DeleteFunc(in.Workers, func(w ui.Worker) bool { return !who.Holds(w.ID) })
	if !who.Core { // it only runs jobs: what it says of people is not asked for
		in.Sockets, in.Troubles, in.Lacks, in.Log, in.Door, in.Forecast = nil, nil, nil, nil, "", nil
	}
	r.put(in, time.Now())
}

func (r *reports) put(in report, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, h := range r.all {
		if now.Sub(h.at) > forgetReports {
			delete(r.all, id)
		}
	}
	if _, known := r.all[in.Member.ID]; known || len(r.all) < maxReports {
		r.all[in.Member.ID] = heardOf{in, now}
	}
}

// forget drops a node that left.
func (r *reports) forget(id cluster.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, id)
}

// list returns every report, by name.
func (r *reports) list() []heardOf {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]heardOf, 0, len(r.all))
	for _, h := range r.all {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b heardOf) int {
		return cmp.Or(cmp.Compare(a.Member.Name, b.Member.Name), cmp.Compare(a.Member.ID, b.Member.ID))
	})
	return out
}

// freshReport is how old a report may be that speaks of workers that are there.
const freshReport = 15 * time.Second

// gpus counts the workers, of all nodes, that can take jobs now: those whose
// ComfyUI answers.
func (s *swarm) gpus() (n int) {
	now := time.Now()
	for _, h := range s.reports.list() {
		if now.Sub(h.at) > freshReport {
			continue
		}
		for _, w := range h.Workers {
			if answers(w) {
				n++
			}
		}
	}
	return n
}

// forecast is what the leader expects of the jobs that wait, nil when it has not
// said so for a while.
func (s *swarm) forecast() *policy.Forecast {
	if s.core == nil {
		return nil
	}
	lead, now := s.core.raft.Leader(), time.Now()
	for _, h := range s.reports.list() {
		if h.Member.ID == lead && now.Sub(h.at) <= fresh {
			return h.Forecast
		}
	}
	return nil
}

// turns are what is expected of a user's waiting jobs, for their own page.
func (s *swarm) turns(u cluster.User) map[jobs.ID]jobs.Turn {
	f := s.forecast()
	if f == nil {
		return nil
	}
	out := map[jobs.ID]jobs.Turn{}
	s.core.machine.Jobs(func(t *jobs.Table) {
		for _, j := range t.Open(u) {
			if turn, ok := f.Turn(t, j.ID); ok && (j.State == jobs.Pending || j.State == jobs.Assigned) {
				out[j.ID] = turn
			}
		}
	})
	return out
}
