package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"

	"github.com/ahelme/comfyume/cluster"
)

// Server answers other nodes: POST /peer/VERB. It finds out who asks, whether
// that node may ask this, and whether it is of the same history, before a verb
// is called.
type Server struct {
	gate   *Gate
	leader func() cluster.NodeID
	log    *slog.Logger
	mu     sync.RWMutex // of verbs
	verbs  map[Verb]verb
}

// Access says who may use a verb.
type Access int

// The accesses.
const (
	CoreOnly Access = iota // nodes that may hold the table
	Workers                // those and gpu-only nodes
)

type verb struct {
	access  Access
	anyLine bool // also for nodes of no history yet, or another one
	serve   func(w http.ResponseWriter, r *http.Request, who Who) error
	// answer is what serve is made of; nil for verbs that are no question and
	// answer.
	answer func(ctx context.Context, who Who, in []byte) (out []byte, err error)
}

// NewServer returns a server without verbs. leader is told with a refusal
// NoLeader.
func NewServer(g *Gate, leader func() cluster.NodeID, log *slog.Logger) *Server {
	return &Server{gate: g, leader: leader, log: log.With("component", "peer"), verbs: map[Verb]verb{}}
}

// add adds a verb. A role adds its own when it starts, while others are answered.
func (s *Server) add(name Verb, v verb) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verbs[name] = v
}

func (s *Server) find(name Verb) (v verb, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok = s.verbs[name]
	return v, ok
}

// Verbs lists what the server answers, for a test that tries each as a stranger.
func (s *Server) Verbs() map[Verb]Access {
	out := map[Verb]Access{}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, v := range s.verbs {
		out[name] = v.access
	}
	return out
}

// maxRequest bounds a verb's body, in bytes: an entry of the log and a bit.
const maxRequest = 1 << 20

// Handle adds a verb whose question and answer are CBOR.
func Handle[In, Out any](s *Server, name Verb, access Access, do func(ctx context.Context, who Who, in In) (Out, error)) {
	s.add(name, question(access, do))
}

// HandleAnyLine is Handle for verbs that nodes use before they share a history.
func HandleAnyLine[In, Out any](s *Server, name Verb, access Access, do func(ctx context.Context, who Who, in In) (Out, error)) {
	v := question(access, do)
	v.anyLine = true
	s.add(name, v)
}

// HandleStream adds a verb whose answer is bytes of any length. An error before
// the first byte is answered as such; later the stream breaks off.
func HandleStream(s *Server, name Verb, access Access, do func(w http.ResponseWriter, r *http.Request, who Who) error) {
	s.add(name, verb{access: access, serve: do})
}

func question[In, Out any](access Access, do func(ctx context.Context, who Who, in In) (Out, error)) verb {
	v := verb{access: access}
	v.answer = func(ctx context.Context, who Who, raw []byte) ([]byte, error) {
		var in In
		if err := cluster.Unmarshal(raw, &in); err != nil {
			return nil, cluster.Errorf(cluster.Invalid, "the request cannot be read")
		}
		out, err := do(ctx, who, in)
		if err != nil {
			return nil, err
		}
		answer, err := cluster.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("write the answer: %w", err)
		}
		return answer, nil
	}
	v.serve = func(w http.ResponseWriter, r *http.Request, who Who) error {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			return cluster.Errorf(cluster.TooLarge, "the request is over the limit of %d kB or broke off", maxRequest>>10)
		}
		answer, err := v.answer(r.Context(), who, raw)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/cbor")
		_, _ = w.Write(answer) // a reader that went away is not our failure
		return nil
	}
	return v
}

// self answers this node's own question, as if it had come over the network.
func (s *Server) self(ctx context.Context, who Who, name Verb, in []byte, out any) error {
	v, ok := s.find(name)
	if !ok || v.answer == nil {
		return cluster.Errorf(cluster.NotFound, "this node knows no verb %q", name)
	}
	answer, err := v.answer(ctx, who, in)
	if err != nil || out == nil {
		return err
	}
	return cluster.Unmarshal(answer, out)
}

// ServeHTTP answers /peer/VERB.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := Verb(r.URL.Path[min(len("/peer/"), len(r.URL.Path)):])
	putLineage(w.Header(), s.gate.cfg.Lineage())
	err := s.serve(w, r, name)
	if err == nil {
		return
	}
	code := cluster.CodeOf(err)
	if code == cluster.Internal && !errors.Is(err, context.Canceled) {
		s.log.Error("a verb failed", "verb", name, "err", err)
	}
	if code == cluster.NoLeader {
		w.Header().Set(leaderHeader, string(s.leader()))
	}
	raw, merr := cluster.Marshal(&cluster.Error{Code: code, Message: cluster.MessageOf(err)})
	if merr != nil {
		raw = nil
	}
	w.Header().Set("Content-Type", "application/cbor")
	w.WriteHeader(code.Status())
	_, _ = w.Write(raw)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, name Verb) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a verb panicked", "verb", name, "panic", p, "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	who, err := s.gate.cfg.WhoIs(r.Context(), r.RemoteAddr)
	if err != nil || !who.Core && !who.GPU {
		return cluster.Errorf(cluster.Forbidden, "only nodes of this workshop may ask this")
	}
	v, ok := s.find(name)
	switch {
	case !ok:
		return cluster.Errorf(cluster.NotFound, "this node knows no verb %q", name)
	case v.access == CoreOnly && !who.Core:
		return cluster.Errorf(cluster.Forbidden, "node %s only runs jobs: it may not ask this", who.Name)
	}
	if !v.anyLine {
		if err := s.gate.compare(who.Node, readLineage(r.Header)); err != nil {
			return err
		}
	}
	return v.serve(w, r, who)
}
