package consensus

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// overTCP is a Stream without checks.
type overTCP struct{ net.Listener }

func (overTCP) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// voter is a server that gives its vote once several asked at the same time.
type voter struct {
	trans *raft.NetworkTransport
	done  sync.WaitGroup
}

func startVoter(t *testing.T, addr string, together int) *voter {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	v := &voter{trans: raft.NewNetworkTransport(stream{overTCP{ln}}, keptConns, 5*time.Second, io.Discard)}
	stop := make(chan struct{})
	v.done.Go(func() {
		var waiting []raft.RPC
		for {
			select {
			case rpc := <-v.trans.Consumer():
				if waiting = append(waiting, rpc); len(waiting) < together {
					continue
				}
				for _, w := range waiting {
					w.Respond(&raft.RequestPreVoteResponse{Granted: true}, nil)
				}
				waiting = nil
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() { close(stop); v.done.Wait(); v.end() })
	return v
}

// end closes everything, as a process does that was killed.
func (v *voter) end() {
	v.trans.CloseStreams()
	_ = v.trans.Close() // it may be closed already
}

// TestVoteOfAServerThatWasRestarted: the connections that were kept to it are
// dead, and the first election after the restart must not be lost to that.
func TestVoteOfAServerThatWasRestarted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	us := &transport{NetworkTransport: raft.NewNetworkTransport(stream{overTCP{ln}}, keptConns, 5*time.Second, io.Discard), heard: newHeard()}
	t.Cleanup(func() { _ = us.Close() })
	before := startVoter(t, "127.0.0.1:0", keptConns)
	addr := before.trans.LocalAddr()
	ask := func() (resp raft.RequestPreVoteResponse, err error) {
		err = us.RequestPreVote("them", addr, &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: 2}, &resp)
		return resp, err
	}
	var asked sync.WaitGroup
	for range keptConns {
		asked.Go(func() {
			if _, err := ask(); err != nil {
				t.Error(err)
			}
		})
	}
	asked.Wait()
	before.end()
	startVoter(t, string(addr), 1)
	if resp, err := ask(); err != nil || !resp.Granted {
		t.Errorf("the first question after the restart: granted %v, %v", resp.Granted, err)
	}
}
