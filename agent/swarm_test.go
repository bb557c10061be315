package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/ui"
)

// Three machines that are switched on at the same moment make one workshop,
// whoever is first by a few milliseconds.
func TestOneWorkshopIsFormedWhoeverComesFirst(t *testing.T) {
	for i, gaps := range [][3]time.Duration{{0, 0, 0}, {0, 300, 10}, {0, 690, 720}, {0, 5000, 0}, {0, 10, 3000}} {
		t.Run(fmt.Sprint(gaps), func(t *testing.T) {
			inVirtualTime(t, func(s *shop) {
				order := []string{"a", "b", "c"}
				if i%2 == 1 {
					slices.Reverse(order)
				}
				for k, name := range order {
					time.Sleep(gaps[k] * time.Millisecond)
					s.start(name, "queue,gateway")
				}
				lead := s.settled(3, 3)
				for _, n := range s.nodes {
					if got := n.lineage(); got != lead.lineage() {
						t.Errorf("%s is of %s, the leader of %s", n.name, got, lead.lineage())
					}
				}
			})
		})
	}
}

// A machine that may hold the workshop and does not answer is waited for and
// named; forgetting it, or --form, goes on without it.
func TestFormingWaitsForAMachineThatIsOff(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		s.fabric.Join("id-old", "old", cluster.TagCore)
		s.fabric.Kill("id-old")
		a := s.start("a", "queue")
		time.Sleep(20 * time.Second)
		if l := a.lineage(); l.Cluster != "" {
			t.Fatalf("it formed %s although old may hold the workshop", l)
		}
		if waits := a.core.waits(); !strings.Contains(waits, "old") || !strings.Contains(waits, "node forget") {
			t.Errorf("it says %q", waits)
		}
		a.core.forming.ignore("id-old")
		s.settled(1, 1)
	})
	inVirtualTime(t, func(s *shop) {
		s.fabric.Join("id-old", "old", cluster.TagCore)
		s.fabric.Kill("id-old")
		s.start("a", "queue", func(c *Config) { c.Form = true })
		s.settled(1, 1)
	})
}

// Two queue nodes are one vote and one stand-by; a laptop never votes; the third
// makes three votes.
func TestVotesAreOneOrThree(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		s.settled(1, 1)
		s.start("b", "queue")
		lead := s.settled(1, 2)
		time.Sleep(30 * time.Second)
		if v := lead.view.View(); v.Head.Voters != 1 || !strings.Contains(v.Head.Survives, "b stands by") {
			t.Errorf("%d voters: %s", v.Head.Voters, v.Head.Survives)
		}
		s.start("mac", "queue", func(c *Config) { c.Vote = consensus.VoteNever })
		s.settled(1, 3)
		s.start("c", "queue")
		lead = s.settled(3, 4)
		time.Sleep(time.Minute)
		if v := lead.view.View(); v.Head.Voters != 3 || slices.ContainsFunc(v.Nodes, func(n ui.Node) bool { return n.Name == "mac" && n.Part != partStandBy }) {
			t.Errorf("%+v", v.Nodes)
		}
	})
}

// A worker on a machine that only runs jobs does its job however often the
// leader dies meanwhile, once.
func TestJobOutlivesTheDeathOfLeaders(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		for _, name := range []string{"a", "b", "c"} {
			s.start(name, "queue,gateway")
		}
		lead := s.settled(3, 3)
		gpu := s.start("verda", "gpu")
		w := gpu.work(90 * time.Second)
		s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		if err := lead.submit("p1"); err != nil {
			t.Fatal(err)
		}
		s.until("the job to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
		for range 4 {
			old := s.leader()
			old.kill()
			took := s.until("another leader", 10*time.Second, func() bool { return s.leader() != old })
			if took > 5*time.Second {
				t.Errorf("%s without a leader", took)
			}
			s.start(old.name, "queue,gateway")
			time.Sleep(10 * time.Second)
		}
		s.until("the job to be done", 90*time.Second, func() bool { return s.leader().job("p1").State == jobs.Done })
		if j := s.leader().job("p1"); j.Epoch != 1 || j.Strikes != 0 || len(w.started()) != 1 {
			t.Errorf("epoch %d, strikes %d, started %v", j.Epoch, j.Strikes, w.started())
		}
	})
}

// A machine that loses its power loses its job within five seconds; the job
// keeps its place and is done by another, without a strike.
func TestVanishedMachineLosesItsJobInFiveSeconds(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		one := s.start("verda-1", "gpu")
		one.work(time.Minute)
		s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		for _, p := range []string{"p1", "p2"} {
			if err := lead.submit(p); err != nil {
				t.Fatal(err)
			}
		}
		s.until("p1 to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
		two := s.start("verda-2", "gpu", func(*Config) {})
		time.Sleep(15 * time.Second) // everybody has heard of everybody
		one.kill()
		took := s.until("p1 to be taken back", 30*time.Second, func() bool { return lead.job("p1").State == jobs.Pending })
		if took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		two.work(3 * time.Second)
		s.until("both to be done", time.Minute, func() bool { return lead.job("p1").State == jobs.Done && lead.job("p2").State == jobs.Done })
		j := lead.job("p1")
		if j.Strikes != 0 || j.Ended > lead.job("p2").Ended {
			t.Errorf("p1: %d strikes, ended %d, p2 %d", j.Strikes, j.Ended, lead.job("p2").Ended)
		}
	})
}

// A worker that is cut off from the leader for long goes on, and its result
// counts if nobody else has begun; if another has, it is kept aside.
func TestResultsOfAWorkerThatWasCutOff(t *testing.T) {
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprint("another worker takes it: ", other), func(t *testing.T) {
			inVirtualTime(t, func(s *shop) {
				s.start("a", "queue,gateway")
				lead := s.settled(1, 1)
				one := s.start("verda-1", "gpu")
				w := one.work(45 * time.Second)
				w.late = true
				s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
				if err := lead.submit("p1"); err != nil {
					t.Fatal(err)
				}
				s.until("p1 to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
				s.fabric.Cut("id-verda-1", "id-a")
				s.until("p1 to be taken back", 25*time.Second, func() bool { return lead.job("p1").State == jobs.Pending })
				if other {
					s.start("verda-2", "gpu").work(time.Hour)
					s.until("p1 to run elsewhere", 20*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
				}
				s.fabric.Heal("id-verda-1", "id-a")
				if other {
					var orphans []jobs.Orphan
					s.until("the late result to be kept aside", 2*time.Minute, func() bool {
						lead.core.machine.Jobs(func(t *jobs.Table) { orphans = t.Orphans(jobs.ID{User: "ann", Prompt: "p1"}) })
						return len(orphans) == 1
					})
					if lead.job("p1").State != jobs.Running {
						t.Errorf("the newer attempt is %s", lead.job("p1").State)
					}
					return
				}
				s.until("p1 to be done", 2*time.Minute, func() bool { return lead.job("p1").State == jobs.Done })
				if len(w.started()) != 1 {
					t.Errorf("it was started %v", w.started())
				}
			})
		})
	}
}

// Without a majority everything can be read, says so, and a change is refused
// at once after the time that an election may take.
func TestWithoutAMajorityItReadsAndSaysSo(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		for _, name := range []string{"a", "b", "c"} {
			s.start(name, "queue,gateway")
		}
		lead := s.settled(3, 3)
		if err := lead.submit("p1"); err != nil {
			t.Fatal(err)
		}
		var rest *testNode
		for _, n := range s.nodes {
			if n != lead {
				rest = n
			}
		}
		s.until("everybody to know p1", 5*time.Second, func() bool { return rest.job("p1").State == jobs.Pending })
		for _, n := range s.nodes {
			if n != rest {
				n.kill()
			}
		}
		s.until("it to be noticed", 10*time.Second, func() bool { return rest.view.View().Head.ReadOnly != "" })
		_ = rest.submit("p2") // the first one waits for an election that does not come
		begin := time.Now()
		if err := rest.submit("p3"); cluster.CodeOf(err) != cluster.NoLeader {
			t.Errorf("a change without a majority: %v", err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("it was refused after %s", took)
		}
		if v := rest.view.View(); v.Counts.Waiting != 1 || v.Head.Leader != "" {
			t.Errorf("the page shows %+v, leader %q", v.Counts, v.Head.Leader)
		}
	})
}

// A stand-by is promoted while the old voter lives on the other side of a cut.
// When they meet there is one history; the other keeps what only it had, lists
// it and brings it back.
func TestPromoteHealSalvage(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		mello := s.start("mello", "queue,gateway")
		s.settled(1, 1)
		mac := s.start("mac", "queue", func(c *Config) { c.Vote = consensus.VoteNever })
		s.settled(1, 2)
		if err := mello.submit("before"); err != nil {
			t.Fatal(err)
		}
		s.until("the stand-by to know it", 5*time.Second, func() bool { return mac.job("before").State == jobs.Pending })
		s.fabric.Cut("id-mello", "id-mac")
		time.Sleep(10 * time.Second)
		if err := mello.submit("only-mello"); err != nil {
			t.Fatal(err)
		}
		a := &Agent{cfg: mac.cfg, self: mac.self, swarm: mac.swarm}
		if f := a.forecast(context.Background(), mac.core, "promote"); !f.Allowed || !strings.Contains(f.Text, "mello") {
			t.Fatalf("promote is not offered: %+v", f)
		}
		if err := mac.core.raft.Recover(); err != nil {
			t.Fatal(err)
		}
		s.until("the stand-by to lead", 10*time.Second, func() bool { return mac.core.raft.Leads() })
		if err := mac.submit("only-mac"); err != nil {
			t.Fatal(err)
		}
		s.fabric.Heal("id-mello", "id-mac")
		s.until("mello to follow the later history", time.Minute, func() bool {
			return mello.lineage() == mac.lineage() && mello.job("only-mac").State == jobs.Pending
		})
		if mello.job("only-mello").State != "" {
			t.Error("two histories were mixed")
		}
		asides, err := mello.core.raft.Asides()
		if err != nil || len(asides) != 1 {
			t.Fatalf("left behind: %v, %v", asides, err)
		}
		left, err := newSalvage(context.Background(), mello.core, asides[0])
		if err != nil {
			t.Fatal(err)
		}
		if l := left.list(); len(l.Jobs) != 1 || l.Jobs[0] != "ann/only-mello (pending)" {
			t.Errorf("only it had %v", l.Jobs)
		}
		left.propose, left.blobs = mello.core.propose, mello.store()
		if err := left.bringBack(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.until("it to be back", 10*time.Second, func() bool { return mac.job("only-mello").State == jobs.Pending })
	})
}

// A voter whose folder was wiped comes back as a new member and votes again.
func TestWipedVoterIsANewMember(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		for _, name := range []string{"a", "b", "c"} {
			s.start(name, "queue,gateway")
		}
		lead := s.settled(3, 3)
		if err := lead.submit("p1"); err != nil {
			t.Fatal(err)
		}
		var victim *testNode
		for _, n := range s.nodes {
			if n != lead {
				victim = n
			}
		}
		before := victim.core.raft.Incarnation()
		victim.kill()
		if err := os.RemoveAll(filepath.Join(s.root, victim.name)); err != nil {
			t.Fatal(err)
		}
		again := s.start(victim.name, "queue,gateway")
		s.until("it to know p1", time.Minute, func() bool { return again.job("p1").State == jobs.Pending })
		s.until("its old name to be gone", time.Minute, func() bool {
			return !slices.ContainsFunc(s.leader().core.raft.Status().Servers, func(v consensus.Server) bool { return v.Incarnation == before })
		})
		s.settled(3, 3)
		if now := again.core.raft.Incarnation(); now == before {
			t.Error("it came back under its old name")
		}
	})
}

// A new leader whose table is from before a voter came back as a new member must
// not take that voter for its former self: it would remove it.
func TestRestartedLeaderKeepsTheVoters(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		names := []string{"a", "b", "c"}
		for _, name := range names {
			s.start(name, "queue,gateway")
		}
		s.settled(3, 3)
		for _, name := range names { // what they start from, if all are restarted
			_, body, err := s.nodes[name].core.raft.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			_ = body.Close()
		}
		victim := "a"
		s.nodes[victim].kill()
		if err := os.RemoveAll(filepath.Join(s.root, victim)); err != nil {
			t.Fatal(err)
		}
		again := s.start(victim, "queue,gateway").core.raft.Incarnation()
		s.until("it to vote, as everybody knows", time.Minute, func() bool {
			return !slices.ContainsFunc(names, func(name string) bool {
				st := s.nodes[name].core.raft.Status()
				return st.Voters() != 3 || len(st.Servers) != 3 || !slices.ContainsFunc(st.Servers, func(v consensus.Server) bool { return v.Incarnation == again && v.Voter })
			})
		})
		for _, name := range names {
			s.nodes[name].kill()
		}
		s.fabric.Delay(150 * time.Millisecond) // so that a leader leads for a while before it knows what was committed
		for _, name := range names {
			s.start(name, "queue,gateway")
		}
		for range 1000 {
			time.Sleep(20 * time.Millisecond)
			for _, name := range names {
				servers := s.nodes[name].core.raft.Status().Servers
				if len(servers) > 0 && !slices.ContainsFunc(servers, func(v consensus.Server) bool { return v.Incarnation == again && v.Voter }) {
					t.Fatalf("%s has lost its vote, as %s sees it: %v", victim, name, servers)
				}
			}
		}
		s.settled(3, 3)
	})
}

// A node that leaves is taken out and does not stop the others; one that is
// dead is forgotten.
func TestLeaveAndForget(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		for _, name := range []string{"a", "b", "c", "d"} {
			s.start(name, "queue")
		}
		lead := s.settled(3, 4)
		if err := lead.leave(context.Background(), "test"); err != nil {
			t.Fatal(err)
		}
		lead.stop()
		next := s.settled(3, 3)
		s.until("it to be shown no more", 5*time.Second, func() bool { // its farewell may be on its way
			return !slices.ContainsFunc(next.view.View().Nodes, func(n ui.Node) bool { return n.Name == lead.name && n.State != "left" })
		})
		var victim *testNode
		for _, n := range s.nodes {
			if n != lead && n != next {
				victim = n
			}
		}
		if err := next.view.Do(context.Background(), "test", ui.Action{Verb: ui.ForgetNode, Node: victim.name}); cluster.CodeOf(err) != cluster.Conflict {
			t.Errorf("forgetting a living node: %v", err)
		}
		victim.kill()
		s.until("it to be seen as dead", 20*time.Second, func() bool { return next.gone(victim.self.ID) })
		time.Sleep(fresh)
		if err := next.view.Do(context.Background(), "test", ui.Action{Verb: ui.ForgetNode, Node: victim.name}); err != nil {
			t.Fatal(err)
		}
		s.settled(1, 2)
	})
}

// whose says of a verb what a machine that only runs jobs gets by it.
type whose int

const (
	_         whose = iota
	coreNodes       // nothing: it is for nodes that hold the table
	itsOwn          // something of itself only: it says nothing of anybody in the question
	itsJobs         // something of the jobs that its workers hold
	itsFiles        // bytes for such a job
	anyNodes        // what every node may see
)

// peerLaw is what every verb must be. A verb that stands not in it fails the
// test: who adds one says here whose it is.
var peerLaw = map[peer.Verb]whose{
	"join": coreNodes, "image": coreNodes, "transfer": coreNodes, "form": coreNodes, "submit": coreNodes, "retry": coreNodes, "propose": coreNodes, "tokens": coreNodes, "troubles": coreNodes,
	"gpu/care": coreNodes, "gpu/log": coreNodes, "gpu/leave": coreNodes,
	"enter": itsOwn, "twin": itsOwn, "work/register": itsOwn, "leave": itsOwn,
	"work/claim": itsJobs, "work/ahead": itsJobs, "work/started": itsJobs, "work/renew": itsJobs, "work/gpudone": itsJobs, "work/outputs": itsJobs, "work/finish": itsJobs,
	"work/requeue": itsJobs, "work/noroom": itsJobs, "work/hold": itsJobs, "work/secrets": itsJobs,
	"blob": itsFiles, "hello": anyNodes, "view": anyNodes,
}

// Every verb is refused to strangers, and those of core nodes to machines that
// only run jobs. A new verb is tried without anybody having to remember it.
func TestVerbsAreRefusedToStrangers(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		a := s.start("a", "queue,gateway")
		s.settled(1, 1)
		serveSubmits(a.server, &roles{})
		(&roles{}).serveFleet(a.server)
		serveTroubles(a.server, &roles{})
		gpu := s.start("verda", "gpu")
		s.until("it to join", 20*time.Second, func() bool { return gpu.lineage().Cluster != "" })
		verbs := a.server.Verbs()
		for v, access := range verbs {
			if (peerLaw[v] == coreNodes) != (access == peer.CoreOnly) || peerLaw[v] == 0 {
				t.Errorf("%s is not classified, or not for whom the law says", v)
			}
			err := gpu.client.Call(context.Background(), a.self.ID, v, struct{}{}, nil)
			if access == peer.CoreOnly && cluster.CodeOf(err) != cluster.Forbidden {
				t.Errorf("%s answers a machine that only runs jobs: %v", v, err)
			}
		}
		for v := range peerLaw {
			if _, ok := verbs[v]; !ok {
				t.Errorf("there is no verb %s any more", v)
			}
		}
		untagged := s.fabric.Join("id-x", "x")
		defer untagged.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		gate := peer.NewGate(peer.GateConfig{Self: "id-x", Lineage: a.lineage, Dial: func(ctx context.Context, _ cluster.NodeID, port uint16) (net.Conn, error) {
			return untagged.Dial(ctx, netip.AddrPortFrom(a.network.Self().Addr, port).String())
		}, WhoIs: a.reach.whoIs})
		client := peer.NewClient(gate)
		defer client.Close()
		for v := range verbs {
			if err := client.Call(ctx, a.self.ID, v, struct{}{}, nil); cluster.CodeOf(err) != cluster.Forbidden {
				t.Errorf("%s answers a stranger: %v", v, err)
			}
		}
	})
}

// A machine that only runs jobs is answered about its own workers' jobs only:
// another's lease, under another's name or its own, gets it nothing by any verb.
func TestWorkersCannotSpeakForEachOther(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		one, thief := s.start("verda-1", "gpu"), s.start("verda-2", "gpu")
		one.work(time.Hour)
		s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		ctx := context.Background()
		canary := "canary-of-ann"
		input, _, err := lead.blobs.Put(ctx, strings.NewReader(canary), int64(len(canary)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lead.core.steward.Admit().Propose(ctx, &jobs.Submit{ID: jobs.ID{User: "ann", Prompt: "p1"}, BodyHash: "h", Body: []byte(canary), Title: "a title", Inputs: []jobs.Input{{Name: canary, Ref: input, Size: int64(len(canary))}}}); err != nil {
			t.Fatal(err)
		}
		s.until("p1 to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
		s.until("the thief to have joined", 20*time.Second, func() bool { return thief.lineage().Cluster != "" })
		serveSubmits(lead.server, &roles{})
		before := lead.job("p1")
		held := jobs.Lease{Job: before.ID, Worker: "verda-1/0", Epoch: before.Epoch}
		taken := held
		taken.Worker = "verda-2/0"
		type leased struct {
			Lease jobs.Lease `cbor:"1,keyasint"`
		}
		for v := range lead.server.Verbs() {
			for _, l := range []jobs.Lease{held, taken} {
				in := map[peer.Verb]any{
					"work/claim": jobs.Claim{Worker: held.Worker}, "work/ahead": jobs.Claim{Worker: held.Worker}, "work/outputs": leased{l}, "work/requeue": leased{l}, "work/noroom": leased{l}, "work/hold": leased{l},
					"work/finish": jobs.Finish{Lease: l, State: jobs.Failed, History: history}, "work/register": models.Worker{ID: held.Worker, Node: one.self.ID},
					"enter": state.Node{Member: cluster.Member{ID: one.self.ID, Name: one.name}}, "tokens": l.Job, "leave": struct{}{},
				}[v]
				switch {
				case v == "leave" || v == "twin" || peerLaw[v] == itsFiles: // those can only tell of and take out who asks; bytes are asked for below
					continue
				case in == nil && peerLaw[v] == itsJobs:
					in = l
				case in == nil:
					in = struct{}{}
				}
				var out any
				err := thief.client.Call(ctx, lead.self.ID, v, in, &out)
				told := fmt.Sprintf("%s %v", out, err)
				if strings.Contains(told, canary) {
					t.Errorf("%s tells what is in ann's job: %.200s", v, told)
				}
				if lost := v == "work/renew" && out == string(jobs.Lost) || v == "work/noroom" && out == false; err == nil && peerLaw[v] != anyNodes && !lost {
					t.Errorf("%s with %v is answered: %v", v, l, out)
				}
				if l == held && peerLaw[v] != anyNodes && cluster.CodeOf(err) != cluster.Forbidden {
					t.Errorf("%s for another's worker: %v", v, err)
				}
			}
		}
		depot := &peer.Depot{Client: thief.client, Local: thief.blobs, Keepers: func() []cluster.NodeID { return []cluster.NodeID{lead.self.ID} }}
		mine, _, err := thief.blobs.Put(ctx, strings.NewReader("forged"), 6)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []jobs.Lease{{}, held, taken} {
			if err := depot.Fetch(ctx, l, input); err == nil {
				t.Errorf("the thief has ann's file by %v", l)
			}
			if _, kept := depot.Kept(ctx, l, input); kept {
				t.Errorf("the thief is told that ann's file is there by %v", l)
			}
			if err := depot.Keep(ctx, l, mine); err == nil && l != (jobs.Lease{}) {
				t.Errorf("the thief's bytes are kept for ann's job by %v", l)
			}
		}
		owner := &peer.Depot{Client: one.client, Local: one.blobs, Keepers: depot.Keepers}
		if err := owner.Fetch(ctx, held, input); err != nil {
			t.Errorf("who holds the job does not get its input: %v", err)
		}
		if now := lead.job("p1"); now.State != jobs.Running || now.Epoch != before.Epoch || now.Worker != before.Worker {
			t.Errorf("p1 is %s at %s", now.State, now.Worker)
		}
	})
}

// Accounts and their hashes never reach a machine that only runs jobs.
func TestGuestSeesNoHashes(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		a := s.start("a", "queue,gateway")
		s.settled(1, 1)
		if _, err := a.core.propose.Propose(context.Background(), &people.Put{Name: "ann", Hash: "$2a$10$secrethash"}); err != nil {
			t.Fatal(err)
		}
		gpu := s.start("verda", "gpu")
		s.until("it to show the workshop", 20*time.Second, func() bool { return len(gpu.view.View().People) == 1 })
		raw := fmt.Sprintf("%+v", gpu.view.View())
		if strings.Contains(raw, "secrethash") {
			t.Error("a hash is on a machine that only runs jobs")
		}
		v := gpu.view.View()
		if v.Head.Via != "a" || v.Head.ReadOnly == "" {
			t.Errorf("via %q, read-only %q", v.Head.Via, v.Head.ReadOnly)
		}
		if err := gpu.view.Do(context.Background(), "x", ui.Action{Verb: ui.PauseQueue}); cluster.CodeOf(err) != cluster.Forbidden {
			t.Errorf("it steers: %v", err)
		}
		s.nodes["a"].kill()
		time.Sleep(20 * time.Second)
		if v := gpu.view.View(); len(v.People) != 1 || time.Since(time.UnixMilli(v.Head.Seen)) < 15*time.Second {
			t.Errorf("after the core node died it shows %d people, seen %s ago", len(v.People), time.Since(time.UnixMilli(v.Head.Seen)))
		}
	})
}

// A machine that only runs jobs leaves too: neither it nor its worker is shown
// any more, and a planned stop is told apart from a death.
func TestWorkersMachineLeaves(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		a := s.start("a", "queue,gateway")
		s.settled(1, 1)
		g := s.start("g", "gpu")
		stops := s.start("stops", "gpu")
		s.until("both to be seen", 20*time.Second, func() bool {
			return a.here(g.self.ID) && a.here(stops.self.ID) && len(a.core.machine.Nodes()) == 3
		})
		if err := g.leave(context.Background(), "test"); err != nil {
			t.Fatal(err)
		}
		g.stop()
		stops.stop()
		time.Sleep(2 * fresh)
		for _, n := range a.view.View().Nodes {
			if n.Name == "g" || n.Name == "stops" && n.State != "left" {
				t.Errorf("shown: %+v", n)
			}
		}
	})
}

// With one voter and one stand-by either may leave, also after a snapshot was
// restored, which may be older than the row of who leaves: the other goes on.
func TestEitherOfTwoMayLeave(t *testing.T) {
	for _, who := range []string{"the stand-by", "the voter"} {
		for _, restored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restored=%t", who, restored), func(t *testing.T) {
				inVirtualTime(t, func(s *shop) {
					s.start("a", "queue")
					s.start("b", "queue")
					lead := s.settled(1, 2)
					if restored {
						im, body, err := lead.core.raft.Snapshot()
						if err != nil {
							t.Fatal(err)
						}
						if err := errors.Join(lead.core.raft.Restore(context.Background(), im, body), body.Close()); err != nil {
							t.Fatal(err)
						}
					}
					goes, stays := lead, s.nodes["a"]
					if stays == lead {
						stays = s.nodes["b"]
					}
					if who == "the stand-by" {
						goes, stays = stays, goes
					}
					s.until("both to know of each other", 5*time.Second, func() bool {
						return len(goes.core.raft.Status().Servers) == 2
					})
					if err := goes.leave(context.Background(), "test"); err != nil {
						t.Fatal(err)
					}
					goes.stop()
					s.settled(1, 1)
					if err := stays.submit("after"); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}
