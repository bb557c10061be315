package consensus_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// situation reads "a:voter b:voter,lost c d:unfit e:lags": the nodes of a
// configuration led by the first. A node may vote unless it says unfit.
func situation(text string) consensus.Situation {
	s := consensus.Situation{Last: 1000, Now: noon, Since: noon.Add(-time.Hour), Nodes: map[cluster.NodeID]consensus.Candidate{}}
	for field := range strings.FieldsSeq(text) {
		name, words, _ := strings.Cut(field, ":")
		id := cluster.NodeID(name)
		is := func(w string) bool { return slices.Contains(strings.Split(words, ","), w) }
		if s.Self == "" {
			s.Self = id
		}
		srv := consensus.Server{Node: id, Incarnation: "1", Voter: is("voter"), Index: 1000, Contact: noon}
		if is("lost") {
			srv.Contact = noon.Add(-time.Hour)
		}
		if is("quiet") {
			srv.Contact = noon.Add(-time.Minute)
		}
		if is("lags") {
			srv.Index = 10
		}
		c := consensus.Candidate{Incarnation: "1", MayVote: !is("unfit"), Always: is("always"), Left: is("left")}
		if is("again") {
			c.Incarnation = "2"
		}
		s.Servers, s.Nodes[id] = append(s.Servers, srv), c
	}
	return s
}

func TestPlan(t *testing.T) {
	for _, c := range []struct{ what, in, want string }{
		{"one alone", "a:voter", ""},
		{"one and a stand-by", "a:voter b", ""},
		{"three can vote", "a:voter b c", "promote b"},
		{"half way to three", "a:voter b:voter c", "promote c"},
		{"the wish always goes first", "a:voter b c:always", "promote c"},
		{"three vote", "a:voter b:voter c:voter", ""},
		{"a fourth stands by", "a:voter b:voter c:voter d", ""},
		{"one that lags gets no vote", "a:voter b c:lags", ""},
		{"one that is silent gets no vote", "a:voter b c:quiet", ""},
		{"a laptop never votes", "a:voter b:unfit c:unfit", ""},
		{"two voters and nobody more", "a:voter b:voter", "demote b"},
		{"a voter is silent for a minute", "a:voter b:voter c:voter,quiet d", ""},
		{"a voter is lost and another stands by", "a:voter b:voter c:voter,lost d", "promote d"},
		{"its successor votes", "a:voter b:voter c:voter,lost d:voter", "demote c"},
		{"a voter is lost and nobody stands by", "a:voter b:voter c:voter,lost", ""},
		{"no vote is taken when the rest would be no majority", "a:voter b:voter,lost c:voter,lost d:voter,lost", ""},
		{"the laptop formed it, then the server came", "a:voter,unfit b", "promote b"},
		{"the server votes too: it shall lead", "a:voter,unfit b:voter", "transfer b"},
		{"and takes the laptop's vote", "b:voter a:voter,unfit", "demote a"},
		{"a stand-by left", "a:voter b:left", "remove b"},
		{"a voter left", "a:voter b:voter c:voter,left", "remove c"},
		{"the leader leaves", "a:voter,left b:voter c:voter", "transfer b"},
		{"the only voter leaves and a stand-by takes over", "a:voter,left b", "promote b"},
		{"a wiped stand-by came back", "a:voter b:again", "remove b"},
		{"a wiped voter came back", "a:voter b:voter c:voter,again,lost", "remove c"},
	} {
		step := consensus.Plan(situation(c.in))
		if got := strings.TrimSpace(fmt.Sprint(step.Verb, " ", step.Server.Node)); got != c.want {
			t.Errorf("%s (%s): got %q, want %q", c.what, c.in, got, c.want)
		}
	}
}

// Two voters in the middle of a change are given the time that it takes.
func TestPlanBearsTwoVotersForAMoment(t *testing.T) {
	s := situation("a:voter b:voter")
	s.Since = noon.Add(-time.Second)
	if step := consensus.Plan(s); step.Verb != consensus.Nothing {
		t.Errorf("got %+v", step)
	}
}

// From any configuration of up to six nodes, following the plan ends: with one
// or three votes if enough nodes answer, never taking the living majority away.
func TestPlanEnds(t *testing.T) {
	words := []string{"", "voter", "unfit", "left", "lags", "quiet", "lost", "always"}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 3000 {
		text := "a:voter"
		for _, name := range []string{"b", "c", "d", "e", "f"}[:r.IntN(6)] {
			text += fmt.Sprintf(" %s:%s,%s,%s", name, words[r.IntN(2)], words[r.IntN(len(words))], words[r.IntN(len(words))])
		}
		s := situation(text)
		if !majority(s) {
			continue // nobody would lead
		}
		for steps := 0; ; steps++ {
			step := consensus.Plan(s)
			if step.Verb == consensus.Nothing {
				break
			}
			if steps > 20 {
				t.Fatalf("%d: %s: it goes on for ever: %+v", n, text, step)
			}
			apply(&s, step)
			if !majority(s) {
				t.Fatalf("%d: %s: %+v leaves no living majority", n, text, step)
			}
		}
	}
}

func majority(s consensus.Situation) bool {
	all, alive := 0, 0
	for _, v := range s.Servers {
		if v.Voter {
			all++
			if v.Node == s.Self || s.Now.Sub(v.Contact) < 3*time.Second {
				alive++
			}
		}
	}
	return alive > all/2
}

func apply(s *consensus.Situation, step consensus.Step) {
	i := slices.IndexFunc(s.Servers, func(v consensus.Server) bool { return v.Node == step.Server.Node })
	switch step.Verb {
	case consensus.DoPromote:
		s.Servers[i].Voter = true
	case consensus.DoDemote:
		s.Servers[i].Voter = false
	case consensus.DoRemove:
		s.Servers = slices.Delete(slices.Clone(s.Servers), i, i+1)
	case consensus.DoTransfer:
		s.Self = step.Server.Node
	case consensus.Nothing:
	}
}
