// Package agent is one node of the workshop, wired: New builds everything that
// its roles need, Run lets it work until ctx ends and then takes it down in
// reverse order, each step named and bounded. It promises that a node which
// cannot start says so in one sentence with the cure, and that a ComfyUI that
// is slow or dead never ends it. It refuses to hold any logic of a role.
//
// Read in this order: settings.go values.go config.go (what can be set),
// agent.go roles.go stop.go (the wiring), network.go swarm.go (the other
// nodes), core.go forming.go membership.go (a node that holds the table) or
// guest.go guestview.go (one that only runs jobs), accounts.go names.go (who
// may sign in), health.go checks.go (what ready means), service.go unit.go (what
// systemd is told), site.go api.go steer.go
// do.go (what people may ask), report.go view.go nodes.go rows.go attention.go
// live.go metrics.go (what is shown).
//
//	browser --> door (gateway) --+            +-- site <-- dashboard, CLI
//	              |  ^           |            |
//	              |  |events     v            v
//	              |  +------ peer.Links   view, api
//	              v              ^            |
//	        peer.Proposals       |            |
//	         |         |         |            |
//	 to the leader     v         |            v
//	  elsewhere   consensus.Log --> state.Machine (tables) <-- reads of everyone
//	         |                   |
//	         v                   |
//	    queue.Steward --claim--> gpu.Worker --HTTP, WebSocket--> ComfyUI / sketch
//	              (policy)       |   (on any node: peer.Work)
//	                             +--> peer.Depot, peer.Mirror: blobs at gateways
//
// swarm.go draws how a node's streams reach the others.
package agent
