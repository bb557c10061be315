// Package comfy holds ComfyUI's wire words in both directions: what a server
// says (messages, frames, queue and history shapes, errors) and what a client
// asks (Client, Socket). It promises that bytes it does not have to change stay
// as they were: 64-bit seeds, "8.0", the order of keys, keys it has never heard
// of. It refuses to know about users, jobs or nodes of the workshop: those who
// serve or drive a ComfyUI (gateway, gpu, sketch) bring that themselves.
//
//	bytes  value.go      ordered objects, spans, limits
//	       sanitize.go   Python's NaN and Infinity
//	graph  graph.go      a prompt, node by node, edited in place
//	       objectinfo.go what classes a server has
//	       prompt.go     POST /prompt, both ways; errors.go its 400
//	       validate.go   what can be refused before a server has seen it
//	live   message.go    JSON over the socket; frame.go binary over the socket
//	after  history.go    queue, history; jobs.go the newer list; files.go outputs
//	drive  client.go     HTTP calls; transfer.go files; socket.go the socket
//	kept   capabilities.go what a server can do; packed.go bodies at rest
package comfy

import "errors"

// ErrTooLarge is met by foreign input over the size or depth that this package
// is willing to walk.
var ErrTooLarge = errors.New("input is too large or nested too deeply")

// ErrMalformed is met by foreign input that is not of the expected shape.
var ErrMalformed = errors.New("malformed input")
