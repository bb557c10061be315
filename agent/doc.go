// Package agent is one node of the workshop, wired: New builds everything that
// its roles need, Run lets it work until ctx ends and then takes it down in
// reverse order, each step named and bounded. It promises that a node which
// cannot start says so in one sentence with the cure, and that a ComfyUI that
// is slow or dead never ends it. It refuses to hold any logic of a role.
//
// Read in this order: settings.go values.go config.go (what can be set),
// agent.go roles.go stop.go (the wiring), accounts.go names.go (who may sign
// in), health.go checks.go (what ready means), site.go api.go words.go (what
// others may ask), view.go live.go metrics.go (what is shown).
//
//	browser --> door (gateway) --+            +-- site <-- dashboard, CLI
//	              |  ^           |            |
//	              |  |events     v            v
//	              |  +------ peer.Events   view, api
//	              v              ^            |
//	        peer.Proposals       |            |
//	              |              |            |
//	              v              |            v
//	        consensus.Log --> state.Machine (tables) <-- reads of everyone
//	                             |
//	    queue.Steward --claim--> gpu.Worker --HTTP, WebSocket--> ComfyUI / sketch
//	              (policy)       |
//	                             +--> blob.Dir <-- gateway
package agent
