package peer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// oneConn is a listener of one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{} // closed by Close
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { close(l.done); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// applied is a replica that knows everything.
type applied struct{}

func (applied) Await(context.Context, uint64) error { return nil }

// FuzzLink: whatever another node sends over its link, this node takes it or
// ends the link, soon and without taking memory for what has not come.
func FuzzLink(f *testing.F) {
	framed := func(v any) []byte {
		raw, err := cluster.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...)
	}
	f.Add(framed(map[int]any{1: jobs.Event{Job: jobs.ID{User: "ann", Prompt: "p"}, Type: "executing", Text: []byte("{}")}}))
	f.Add(framed(map[int]any{2: []byte(`{"disk":3}`)}))
	f.Add(framed(map[int]any{3: 7}))
	f.Add(framed(map[int]any{1: 7}))
	f.Add([]byte{0x04, 0, 0, 0, 0xa1})                                  // 64 MiB are announced
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})                               // 4 GiB
	f.Add(append([]byte{0, 0, 0, 9}, bytes.Repeat([]byte{0x9f}, 9)...)) // arrays without end
	f.Fuzz(func(t *testing.T, raw []byte) {
		ln := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
		r := &peer.Receiver{
			Replica: applied{}, Event: func(peer.Who, jobs.Event) {}, Report: func(peer.Who, []byte) {}, Logger: slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- r.Serve(ctx, ln) }()
		here, there := net.Pipe()
		ln.conn <- there
		go func() { // its answers
			var sink [512]byte
			for {
				if _, err := here.Read(sink[:]); err != nil {
					return
				}
			}
		}()
		if err := here.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := here.Write(raw) // it may have ended the link by then
		if e, ok := err.(interface{ Timeout() bool }); ok && e.Timeout() {
			t.Error("it neither takes nor ends the link")
		}
		_ = here.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
