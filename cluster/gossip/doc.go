// Package gossip says which nodes of the workshop are here, in which roles and
// how loaded they are.
//
// It promises advice: what a node says of itself reaches the others in well
// under a second, a node that falls silent is found dead within seconds, and
// "left", "dead" and "slow" are told apart. Members that are gone stay listed
// for a while. A partition that heals is found again without help.
//
// It refuses to be asked for anything durable or exclusive: two nodes may
// believe different things for seconds, and a member listed as alive may be
// gone already. Who leads, who votes and who owns a job is never decided here.
// Nor is it proof against a member that lies: one that may gossip can bury
// another, who objects within moments, and say anything of itself.
//
// It alone imports memberlist:
//
//	Network ── transport ───────────── memberlist ── delegate ──┐ "something moved"
//	           who is it? (gate)        probes,       (events)  │
//	           is it whole? (wire)      gossip                  v
//	              ^                        │  own state      watch ── table ── Members
//	              └─────── look <──────────┘  as a peer        │ │             State
//	Peers ──────────────── join               sees it          │ └── doubts ─> slow ones
//	Update ─────────────── announce                            └──── Changed
//
// One detour needs a reason. memberlist v0.5.4 keeps to itself whom it
// suspects, and its public Node.State is never set (the assignments go to a
// field of an unexported type that hides it), so a delegate cannot tell a node
// that left from one that died. But memberlist tells every peer exactly that in
// a state exchange. look is such an exchange over a pipe inside the process,
// with a peer that has nothing to say: no side effects, no guesses.
//
// The other detour is doubts: see there why memberlist alone buries the living.
//
// What the states mean, each as seen from this node: alive, a probe was
// answered; slow, somebody got no answer to a probe (direct, by way of others,
// and by stream) and the node has not objected yet; dead, it did not object in
// time; left, it said so itself.
//
// What outlives Run: memberlist has no way to wait for it. A probe that was
// running when Run ended sleeps for up to eight probe intervals (4 s, or 24 s
// with Far), a relayed probe for one probe timeout, and a suspicion's timer
// fires once more into nothing. None of them holds a socket or calls anything
// of ours that does more than set a flag. Its other goroutines end by
// themselves right after; all of ours have ended when Run returns.
package gossip
