package consensus

import (
	"cmp"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Vote says what a node was started to be in the raft configuration.
type Vote string

// The wishes. Only nodes with the role queue may vote at all.
const (
	VoteAuto   Vote = "auto"   // when it is a steady machine
	VoteAlways Vote = "always" // in any case
	VoteNever  Vote = "never"  // it only holds a copy
)

// Candidate is what the plan has to know of a node beside its servers.
type Candidate struct {
	Incarnation string // the one that is meant by the node's name now
	MayVote     bool   // queue role, and steady or always
	Always      bool
	Left        bool // it said goodbye, or was forgotten
}

// Situation is everything that a plan depends on. Only a leader has one.
type Situation struct {
	Self    cluster.NodeID
	Last    uint64 // index of the newest entry
	Servers []Server
	Nodes   map[cluster.NodeID]Candidate
	Now     time.Time
	// Since is when the number of voters last changed here, so that a change of
	// two steps is not undone between them.
	Since time.Time
}

// Verb is one kind of change of the configuration.
type Verb string

// The verbs.
const (
	Nothing    Verb = ""
	DoPromote  Verb = "promote"
	DoDemote   Verb = "demote"
	DoRemove   Verb = "remove"
	DoTransfer Verb = "transfer" // to Server; the new leader goes on with the plan
)

// Step is the next change to make.
type Step struct {
	Verb   Verb
	Server Server
	Why    string
}

// Bounds of the plan.
const (
	// LostAfter is how long a voter may be silent before another takes its vote.
	LostAfter = 5 * time.Minute
	// aliveFor is how recently a server must have answered to be counted on.
	aliveFor = 3 * time.Second
	// nearly is how many entries a server may lack and still get a vote.
	nearly = 256
	// between is how long two voters are borne while a third is expected.
	between = 20 * time.Second
)

// Plan returns the next single change that brings the configuration to what it
// should be: one voter, or three when there are three that may vote; never two
// for longer than a change takes. It gives no vote to a server that does not
// answer or lags, and takes none away if the living voters would then not be a
// majority.
func Plan(s Situation) Step {
	for _, rule := range []func(Situation) Step{removeOld, removeLeft, swapUnfit, replaceLost, grow, shrink} {
		if step := rule(s); step.Verb != Nothing {
			return step
		}
	}
	return Step{}
}

func (s Situation) voters() []Server {
	return slices.DeleteFunc(slices.Clone(s.Servers), func(v Server) bool { return !v.Voter })
}

func (s Situation) alive(v Server) bool {
	return v.Node == s.Self || s.Now.Sub(v.Contact) <= aliveFor
}

// fit are the members without a vote that could be given one now, the best first.
func (s Situation) fit() []Server {
	out := slices.DeleteFunc(slices.Clone(s.Servers), func(v Server) bool {
		c := s.Nodes[v.Node]
		return v.Voter || !c.MayVote || c.Left || c.Incarnation != v.Incarnation || !s.alive(v) || v.Index+nearly < s.Last
	})
	slices.SortFunc(out, func(a, b Server) int {
		always := func(v Server) int {
			if s.Nodes[v.Node].Always {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(always(a), always(b)), cmp.Compare(a.Node, b.Node))
	})
	return out
}

// safe reports whether the voters that are alive would be a majority without v.
func (s Situation) safe(v Server) bool {
	all, alive := 0, 0
	for _, o := range s.voters() {
		if o.id() == v.id() {
			continue
		}
		all++
		if s.alive(o) {
			alive++
		}
	}
	return alive > all/2
}

// removeOld drops servers whose node has come back as another incarnation.
func removeOld(s Situation) Step {
	for _, v := range s.Servers {
		c, known := s.Nodes[v.Node]
		if known && v.Node != s.Self && c.Incarnation != "" && c.Incarnation != v.Incarnation && (!v.Voter || s.safe(v)) {
			return Step{DoRemove, v, "its node came back with an empty log"}
		}
	}
	return Step{}
}

// removeLeft drops nodes that said goodbye.
func removeLeft(s Situation) Step {
	for _, v := range s.Servers {
		if !s.Nodes[v.Node].Left {
			continue
		}
		if v.Node == s.Self {
			if to, ok := s.heir(); ok {
				return Step{DoTransfer, to, "the leader is leaving"}
			}
			continue
		}
		if !v.Voter || s.safe(v) {
			return Step{DoRemove, v, "it left"}
		}
	}
	return Step{}
}

// heir is the voter that should lead after this node.
func (s Situation) heir() (Server, bool) {
	for _, v := range s.voters() {
		if v.Node != s.Self && s.alive(v) && v.Index+nearly >= s.Last && !s.Nodes[v.Node].Left {
			return v, true
		}
	}
	return Server{}, false
}

// swapUnfit gives the votes of nodes that should have none to others.
func swapUnfit(s Situation) Step {
	voters := s.voters()
	for _, v := range voters {
		c, known := s.Nodes[v.Node]
		if !known || c.MayVote && !c.Left {
			continue
		}
		switch fit := s.fit(); {
		case len(voters) == 2 || len(voters) == 4: // its successor has been given a vote
			if v.Node == s.Self {
				if to, ok := s.heir(); ok {
					return Step{DoTransfer, to, "the leader shall not vote"}
				}
				continue
			}
			if s.safe(v) {
				return Step{DoDemote, v, "it shall not vote"}
			}
		case len(fit) > 0:
			return Step{DoPromote, fit[0], "in place of " + string(v.Node)}
		}
	}
	return Step{}
}

// replaceLost gives the vote of a voter that has long been silent to another.
func replaceLost(s Situation) Step {
	voters := s.voters()
	for _, v := range voters {
		if v.Node == s.Self || s.alive(v) || v.Contact.IsZero() && s.Now.Sub(s.Since) < LostAfter || !v.Contact.IsZero() && s.Now.Sub(v.Contact) < LostAfter {
			continue
		}
		fit := s.fit()
		switch {
		case len(voters) > 3 && s.safe(v):
			return Step{DoDemote, v, "it has not answered for long"}
		case len(voters) == 3 && len(fit) > 0:
			return Step{DoPromote, fit[0], "in place of " + string(v.Node) + ", which has not answered for long"}
		}
	}
	return Step{}
}

// grow gives votes when three can have one.
func grow(s Situation) Step {
	voters, fit := len(s.voters()), s.fit()
	if voters < 3 && voters+len(fit) >= 3 {
		return Step{DoPromote, fit[0], "three nodes can vote"}
	}
	return Step{}
}

// shrink ends two voters: losing either would stop the table.
func shrink(s Situation) Step {
	voters := s.voters()
	if len(voters) != 2 || s.Now.Sub(s.Since) < between {
		return Step{}
	}
	for _, v := range voters {
		if v.Node != s.Self && s.alive(v) {
			return Step{DoDemote, v, "two votes are worse than one"}
		}
	}
	return Step{}
}
