package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
)

// wires joins logs by pipes, and can cut them.
type wires struct {
	mu    sync.Mutex
	ports map[string]*port
	cut   map[[2]string]bool
	conns map[net.Conn][2]string
}

func newWires() *wires {
	return &wires{ports: map[string]*port{}, cut: map[[2]string]bool{}, conns: map[net.Conn][2]string{}}
}

// port is one node's consensus.Stream.
type port struct {
	w     *wires
	name  string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (w *wires) open(name string) *port {
	p := &port{w: w, name: name, conns: make(chan net.Conn), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[name] = p
	return p
}

func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.done) })
	p.w.drop(func(ends [2]string) bool { return slices.Contains(ends[:], nodeOf(p.name)) })
	return nil
}

func (w *wires) drop(which func([2]string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, ends := range w.conns {
		if which(ends) {
			_ = c.Close()
			delete(w.conns, c)
		}
	}
}

// nodeOf is the node of NODE.INCARNATION.
func nodeOf(addr string) string { node, _, _ := strings.Cut(addr, "."); return node }

type name string

func (name) Network() string  { return "wire" }
func (n name) String() string { return string(n) }

func (p *port) Addr() net.Addr { return name(p.name) }

func (p *port) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	p.w.mu.Lock()
	to, cut := p.w.ports[addr], p.w.cut[[2]string{nodeOf(p.name), nodeOf(addr)}]
	p.w.mu.Unlock()
	if to == nil || cut {
		return nil, fmt.Errorf("no way to %s", addr)
	}
	here, there := net.Pipe()
	select {
	case to.conns <- there:
	case <-to.done:
		return nil, net.ErrClosed
	case <-p.done:
		return nil, net.ErrClosed
	case <-time.After(timeout):
		return nil, errors.New("timeout")
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	ends := [2]string{nodeOf(p.name), nodeOf(addr)}
	p.w.conns[here], p.w.conns[there] = ends, ends
	return here, nil
}

// part cuts one node off from all others, or joins it again.
func (w *wires) part(node string, off bool) {
	w.mu.Lock()
	for name := range w.ports {
		if other := nodeOf(name); other != node {
			w.cut[[2]string{node, other}], w.cut[[2]string{other, node}] = off, off
		}
	}
	w.mu.Unlock()
	if off {
		w.drop(func(ends [2]string) bool { return slices.Contains(ends[:], node) && ends[0] != ends[1] })
	}
}

// member is one log of a swarm under test.
type member struct {
	*node
	name  string
	dir   string
	wires *wires
}

func (m *member) start(t *testing.T, adjust func(*consensus.Config)) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	machine := state.New(quiet)
	cfg := consensus.Config{
		Dir: m.dir, Node: cluster.NodeID(m.name), Machine: machine, Logger: quiet, Level: state.Level, Fresh: func() consensus.Machine { return state.New(quiet) },
		Stream: func(inc string) (consensus.Stream, error) { return m.wires.open(m.name + "." + inc), nil },
		Holder: func(cluster.NodeID) bool { return true }, Free: func(string) (int64, error) { return 1 << 40, nil }, Ballast: 1,
	}
	if adjust != nil {
		adjust(&cfg)
	}
	l, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	var once sync.Once
	m.node = &node{log: l, machine: machine, stop: func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("stop %s: %v", m.name, err)
			}
		})
	}}
}

// swarm is several logs in one bubble of virtual time.
type swarm struct {
	t       *testing.T
	wires   *wires
	members []*member
}

// gather starts n logs: the first forms, the others join and follow.
func gather(t *testing.T, n int, adjust func(*consensus.Config)) *swarm {
	t.Helper()
	s := &swarm{t: t, wires: newWires()}
	root := t.TempDir()
	for i := range n {
		m := &member{name: fmt.Sprintf("n%d", i+1), wires: s.wires}
		m.dir = filepath.Join(root, m.name)
		s.members = append(s.members, m)
		m.start(t, adjust)
		if i == 0 {
			if err := m.log.Form(); err != nil {
				t.Fatal(err)
			}
			m.lead(t)
			continue
		}
		s.join(m)
	}
	return s
}

// join makes m a follower of the first log's history.
func (s *swarm) join(m *member) {
	s.t.Helper()
	if m.log.Lineage().Cluster == "" {
		if err := m.log.Join(s.members[0].log.Lineage()); err != nil {
			s.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.leader().log.Add(ctx, cluster.NodeID(m.name), m.log.Incarnation()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *swarm) end() {
	for _, m := range slices.Backward(s.members) {
		m.stop()
	}
}

// leader waits for one that knows itself to lead.
func (s *swarm) leader() *member {
	s.t.Helper()
	for range 1000 {
		for _, m := range s.members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			ok := m.log.Leads() && m.log.Barrier(ctx) == nil
			cancel()
			if ok {
				return m
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatal("nobody leads")
	return nil
}

// vote gives every member a vote.
func (s *swarm) vote() {
	s.t.Helper()
	for _, srv := range s.leader().log.Status().Servers {
		if !srv.Voter {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := s.leader().log.Promote(ctx, srv); err != nil {
				s.t.Fatal(err)
			}
			cancel()
		}
	}
}

func (s *swarm) until(what string, is func() bool) {
	s.t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatalf("waited a minute for %s", what)
}

func put(m *member, user string) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := peer.Proposals{Log: m.log}.Propose(ctx, &people.Put{Name: cluster.User(user), Hash: "h"})
	return out.Index, err
}

func (m *member) knows(user string) bool { return slices.Contains(m.names(), cluster.User(user)) }

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t) })
}

// What was acknowledged by three voters outlives their leader, and the one that
// was cut off follows again.
func TestLeaderIsCutOffAndNothingIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := gather(t, 3, nil)
		defer s.end()
		s.vote()
		old := s.leader()
		for i := range 20 {
			if _, err := put(old, fmt.Sprint("before", i)); err != nil {
				t.Fatal(err)
			}
		}
		s.wires.part(old.name, true)
		begin := time.Now()
		var next *member
		s.until("another leader", func() bool {
			for _, m := range s.members {
				if m != old && m.log.Leads() {
					next = m
				}
			}
			return next != nil
		})
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("an election took %s", took)
		}
		if _, err := put(old, "lost"); err == nil {
			t.Error("a leader without a majority acknowledged a change")
		}
		if _, err := put(next, "after"); err != nil {
			t.Fatal(err)
		}
		s.wires.part(old.name, false)
		s.until("the old leader to follow", func() bool { return old.knows("after") })
		for i := range 20 {
			if !next.knows(fmt.Sprint("before", i)) {
				t.Errorf("an acknowledged change is gone: before%d", i)
			}
		}
	})
}

// A stand-by that is promoted while the old voter lives makes a later
// generation. When they meet there is one history, and what only the other had
// accepted can be read.
func TestPromotedStandByWinsAndTheOtherKeepsWhatItHad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := gather(t, 2, nil)
		defer s.end()
		voter, standby := s.members[0], s.members[1]
		if _, err := put(voter, "both"); err != nil {
			t.Fatal(err)
		}
		s.until("the stand-by to follow", func() bool { return standby.knows("both") })
		if st := voter.log.Status(); st.Copied < st.Applied {
			t.Errorf("applied %d, copied %d: the answer did not wait for the stand-by", st.Applied, st.Copied)
		}
		s.wires.part("n2", true)
		time.Sleep(3 * time.Second)
		if _, err := put(voter, "only-the-voter"); err != nil {
			t.Fatal(err)
		}
		if st := voter.log.Status(); st.Copied >= st.Last {
			t.Error("an entry that the stand-by lacks counts as copied")
		}
		before := standby.log.Lineage()
		if err := standby.log.Recover(); err != nil {
			t.Fatal(err)
		}
		standby.lead(t)
		if now := standby.log.Lineage(); now.Cluster != before.Cluster || now.Generation.Compare(before.Generation) <= 0 {
			t.Errorf("promoted from %s to %s", before, now)
		}
		if _, err := put(standby, "only-the-standby"); err != nil {
			t.Fatal(err)
		}
		s.wires.part("n2", false)
		if err := voter.log.Rejoin(standby.log.Lineage()); err != nil {
			t.Fatal(err)
		}
		if err := standby.log.Add(t.Context(), "n1", voter.log.Incarnation()); err != nil {
			t.Fatal(err)
		}
		s.until("the old voter to have the new history", func() bool { return voter.knows("only-the-standby") && voter.knows("both") })
		if voter.knows("only-the-voter") {
			t.Error("two histories were mixed")
		}
		asides, err := voter.log.Asides()
		if err != nil || len(asides) != 1 {
			t.Fatalf("histories left behind: %v, %v", asides, err)
		}
		left, err := voter.log.Salvage(t.Context(), asides[0].Name)
		if err != nil {
			t.Fatal(err)
		}
		old := &node{machine: left.(*state.Machine)}
		if got := old.names(); !slices.Contains(got, "only-the-voter") || slices.Contains(got, "only-the-standby") {
			t.Errorf("the history left behind has %v", got)
		}
	})
}

// A crash between two steps of a promotion or of leaving a history is made up
// for at the next start.
func TestHalfDoneForksAreFinished(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := gather(t, 2, nil)
		defer s.end()
		m := s.members[1]
		if _, err := put(s.members[0], "both"); err != nil {
			t.Fatal(err)
		}
		s.until("the stand-by to follow", func() bool { return m.knows("both") })
		m.stop()
		consensus.LeaveHalfDone(t, m.dir, "recover")
		m.start(t, nil)
		m.lead(t)
		if !m.knows("both") {
			t.Error("the promoted one lost what it had")
		}
		before := m.log.Incarnation()
		m.stop()
		consensus.LeaveHalfDone(t, m.dir, "aside")
		m.start(t, nil)
		if m.log.Incarnation() == before || len(m.names()) > 0 {
			t.Errorf("it came back as %s with %v", m.log.Incarnation(), m.names())
		}
		if asides, err := m.log.Asides(); err != nil || len(asides) != 1 {
			t.Errorf("histories left behind: %v, %v", asides, err)
		}
	})
}

// An answer waits for a stand-by that is alive, and not for one that is gone.
func TestAnswersWaitForALivingStandByOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := gather(t, 2, nil)
		defer s.end()
		voter := s.members[0]
		s.until("the stand-by to be heard of", func() bool {
			_, err := put(voter, "warm")
			st := voter.log.Status()
			return err == nil && st.Copied == st.Last
		})
		s.wires.part("n2", true)
		begin := time.Now()
		if _, err := put(voter, "just-cut"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 200*time.Millisecond || took > 400*time.Millisecond {
			t.Errorf("the first answer after the cut took %s, want a quarter of a second", took)
		}
		time.Sleep(5 * time.Second)
		begin = time.Now()
		if _, err := put(voter, "long-cut"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 50*time.Millisecond {
			t.Errorf("an answer waited %s for a stand-by that is gone", took)
		}
	})
}

// A full disk hands over, stops, says so, and goes on by itself.
func TestFullDiskHandsOverAndComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		full := map[string]bool{}
		s := gather(t, 3, func(c *consensus.Config) {
			c.Free = func(dir string) (int64, error) {
				mu.Lock()
				defer mu.Unlock()
				if full[filepath.Base(dir)] {
					return 0, nil
				}
				return 1 << 40, nil
			}
		})
		defer s.end()
		s.vote()
		old := s.leader()
		if _, err := put(old, "before"); err != nil {
			t.Fatal(err)
		}
		set := func(v bool) { mu.Lock(); full[old.name] = v; mu.Unlock() }
		set(true)
		s.until("it to stop", func() bool { return old.log.Status().Full })
		if _, err := put(old, "refused"); cluster.CodeOf(err) != cluster.NoSpace {
			t.Errorf("a full node answers %v", err)
		}
		if !old.knows("before") {
			t.Error("a full node cannot be read")
		}
		next := s.leader()
		if _, err := put(next, "meanwhile"); err != nil {
			t.Fatal(err)
		}
		set(false)
		s.until("it to go on", func() bool { return old.knows("meanwhile") })
	})
}

// A replica whose state was made wrong finds out at a checkpoint, fetches the
// table anew, and keeps its vote.
func TestDivergedReplicaFetchesTheTable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := gather(t, 3, nil)
		defer s.end()
		s.vote()
		lead := s.leader()
		var odd *member
		for _, m := range s.members {
			if m != lead {
				odd = m
			}
		}
		// One row more than the log says.
		index, now := odd.machine.Applied()
		raw, err := state.Encode(&people.Put{Name: "ghost", Hash: "h"}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		odd.machine.Apply(index, now, [][]byte{raw})
		for i := 0; lead.log.Status().Last < state.CheckpointEvery+10; i++ {
			if _, err := put(lead, fmt.Sprint("u", i%50)); err != nil {
				t.Fatal(err)
			}
		}
		c, due := lead.machine.Due()
		if !due {
			t.Fatal("no checkpoint is due")
		}
		if _, err := (peer.Proposals{Log: lead.log}).Propose(t.Context(), &c); err != nil {
			t.Fatal(err)
		}
		s.until("the odd one to stop", func() bool { return odd.machine.Halted() != nil && odd.log.Status().Stopped != "" })
		im, body, err := lead.log.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if err := odd.log.Refetch(im, body); err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := put(lead, "after"); err != nil {
			t.Fatal(err)
		}
		s.until("the odd one to follow again", func() bool { return odd.knows("after") })
		if v := lead.log.Status().Voters(); v != 3 {
			t.Errorf("%d voters", v)
		}
		if odd.machine.Halted() != nil || odd.knows("ghost") {
			t.Errorf("it has %v, halted: %v", odd.names(), odd.machine.Halted())
		}
	})
}

// Ten minutes of quiet change nothing: no election comes out of nowhere.
func TestQuietChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := gather(t, 3, nil)
		defer s.end()
		s.vote()
		before := s.leader().log.Status()
		time.Sleep(10 * time.Minute)
		if after := s.leader().log.Status(); after.Term != before.Term || after.Leader != before.Leader {
			t.Errorf("term %d led by %s became term %d led by %s", before.Term, before.Leader, after.Term, after.Leader)
		}
	})
}
