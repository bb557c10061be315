package peer

import (
	"context"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// How long a call waits for somebody to lead.
const (
	// Election is how long a leader may be missing before calls stop waiting for
	// one: an election takes about two seconds, five at worst.
	Election = 5 * time.Second
	retry    = 50 * time.Millisecond
)

// Leadership finds whoever leads and asks there.
type Leadership struct {
	client *Client
	self   cluster.NodeID
	known  func() cluster.NodeID   // the leader as this node's own log knows, "" = nobody; nil without a log
	cores  func() []cluster.NodeID // who may know, for nodes without a log

	mu   sync.Mutex
	hint cluster.NodeID // who said last that it leads, or was said to
	next int            // of cores, to be asked when there is no hint
	lost time.Time      // since when nobody led; zero while somebody does
}

// NewLeadership returns one. known may be nil.
func NewLeadership(c *Client, self cluster.NodeID, known func() cluster.NodeID, cores func() []cluster.NodeID) *Leadership {
	return &Leadership{client: c, self: self, known: known, cores: cores}
}

// Do calls f with the leader's id, again and again while nobody leads or the
// leader does not answer, for as long as an election may take. When that has
// passed, later calls fail at once until there is a leader again. here is true
// when this node leads. f may be called several times: what it asks must be
// harmless when repeated.
func (l *Leadership) Do(ctx context.Context, f func(ctx context.Context, leader cluster.NodeID, here bool) error) error {
	for {
		err := errNobody
		leader := l.where()
		if leader != "" {
			err = f(ctx, leader, leader == l.self)
		}
		if !l.again(ctx, leader, err) {
			return err
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return err
		}
	}
}

var errNobody error = cluster.Errorf(cluster.NoLeader, "no node can accept changes right now; nothing was changed; try again in a moment")

// where is who to ask.
func (l *Leadership) where() cluster.NodeID {
	if l.known != nil {
		return l.known()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hint != "" {
		return l.hint
	}
	cores := l.cores()
	if len(cores) == 0 {
		return ""
	}
	l.next++
	return cores[l.next%len(cores)]
}

// again notes how a call ended and reports whether to try once more.
func (l *Leadership) again(ctx context.Context, asked cluster.NodeID, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	code := cluster.CodeOf(err)
	if code != cluster.NoLeader && code != cluster.Unavailable {
		l.lost = time.Time{}
		if l.known == nil {
			l.hint = asked
		}
		return false
	}
	l.hint = ""
	if leader, is := NotLeader(err); is && leader != asked {
		l.hint = leader
	}
	now := time.Now()
	if l.lost.IsZero() {
		l.lost = now
	}
	return now.Sub(l.lost) < Election && ctx.Err() == nil
}

// Lost is since when nobody led, as far as calls from here found out; zero
// while somebody does.
func (l *Leadership) Lost() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
