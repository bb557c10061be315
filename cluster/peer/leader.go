package peer

import (
	"context"
	"errors"
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
	// answerWithin is how long one call may go without an answer. A machine that is
	// gone refuses nothing, and what was sent to it would wait for many minutes.
	answerWithin = 8 * time.Second
	// lookWhoLeads is how often it is seen whether the one that was asked leads still.
	lookWhoLeads = 100 * time.Millisecond
)

// Leadership finds whoever leads and asks there.
type Leadership struct {
	client *Client
	self   cluster.NodeID
	known  func() cluster.NodeID   // the leader as this node's own log knows, "" = nobody; nil without a log
	cores  func() []cluster.NodeID // who may know, for nodes without a log

	mu     sync.Mutex
	hint   cluster.NodeID // who said last that it leads, or was said to
	next   int            // of cores, to be asked when there is no hint
	silent cluster.NodeID // who did not answer last: not asked next if there is another
	lost   time.Time      // since when nobody led; zero while somebody does
	failed time.Time      // when that was seen last
}

// NewLeadership returns one. known may be nil.
func NewLeadership(c *Client, self cluster.NodeID, known func() cluster.NodeID, cores func() []cluster.NodeID) *Leadership {
	return &Leadership{client: c, self: self, known: known, cores: cores}
}

// Do calls f with the leader's id, again and again while nobody leads or the
// leader does not answer, for as long as an election may take. When that has
// passed, later calls ask once, going where they are sent, and fail at once until
// there is a leader again. here is true when this node leads. f may be called
// several times: what it asks must be harmless when repeated.
func (l *Leadership) Do(ctx context.Context, f func(ctx context.Context, leader cluster.NodeID, here bool) error) error {
	return l.doWithin(ctx, answerWithin, f)
}

// doWithin is Do for what may go without an answer for so long.
func (l *Leadership) doWithin(ctx context.Context, within time.Duration, f func(ctx context.Context, leader cluster.NodeID, here bool) error) error {
	var unsure error // an earlier try may have done it, whatever a later one is told
	for turn := 0; ; turn++ {
		err := errNobody
		leader := l.where()
		switch leader {
		case "":
		case l.self:
			err = f(ctx, leader, true)
		default:
			err = l.ask(ctx, within, leader, f)
		}
		told := err
		switch code := cluster.CodeOf(err); {
		case code == cluster.Unavailable:
			unsure = err
		case code == cluster.NoLeader && unsure != nil:
			told = unsure
		}
		wait, again := l.again(leader, err, turn)
		if !again || ctx.Err() != nil {
			return told
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return told
		}
	}
}

var (
	errSilent = cluster.Errorf(cluster.Unavailable, "the node that leads does not answer; what was asked of it may have been done")
	errMoved  = cluster.Errorf(cluster.Unavailable, "another node leads now; what was asked of the one before may have been done")
)

// ask calls f for a leader elsewhere, and gives up on it when it is silent or
// when this node's log knows that another leads.
func (l *Leadership) ask(ctx context.Context, within time.Duration, leader cluster.NodeID, f func(ctx context.Context, leader cluster.NodeID, here bool) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errSilent)
	defer cancel()
	if l.known == nil {
		return f(ctx, leader, false)
	}
	ctx, moved := context.WithCancelCause(ctx)
	defer moved(nil)
	go func() {
		tick := time.NewTicker(lookWhoLeads)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if now := l.known(); now != "" && now != leader {
					moved(errMoved)
				}
			}
		}
	}()
	return f(ctx, leader, false)
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
	if cores[l.next%len(cores)] == l.silent {
		l.next++
	}
	return cores[l.next%len(cores)]
}

// maxTurns bounds how often one call is sent on when it may not wait.
const maxTurns = 5

// again notes how a call ended and says whether, and after what, to try once more.
func (l *Leadership) again(asked cluster.NodeID, err error, turn int) (wait time.Duration, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	code := cluster.CodeOf(err)
	if code != cluster.NoLeader && code != cluster.Unavailable {
		l.lost, l.silent = time.Time{}, ""
		if l.known == nil {
			l.hint = asked
		}
		return 0, false
	}
	l.hint = ""
	leader, is := NotLeader(err)
	sent := is && leader != "" && leader != asked
	if sent {
		l.hint = leader
	}
	if code == cluster.Unavailable {
		l.silent = asked
	}
	now := time.Now()
	if l.lost.IsZero() || now.Sub(l.failed) > Election { // nobody asked meanwhile: it may have been well
		l.lost = now
	}
	l.failed = now
	switch {
	case turn < maxTurns && (sent && l.known == nil || errors.Is(err, errFollowed)):
		return 0, true
	case now.Sub(l.lost) < Election:
		return retry, true
	case l.known == nil && turn < min(maxTurns, len(l.cores())-1): // another may know better
		return 0, true
	}
	return 0, false
}

// Lost is since when nobody led, as far as calls from here found out; zero
// while somebody does.
func (l *Leadership) Lost() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
