package peer

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// parcel is one thing on a link. Exactly one of its parts is set; the other
// way only Sync is used, as the answer.
type parcel struct {
	Event  *jobs.Event `cbor:"1,keyasint,omitempty"`
	Report []byte      `cbor:"2,keyasint,omitempty"` // what the node says of itself; the agent's words
	Sync   uint64      `cbor:"3,keyasint,omitempty"` // answered when all before it was handled
}

// maxParcel bounds a parcel, in bytes: a picture that a node sends as its
// result.
const maxParcel = 64 << 20

// Bounds of a link.
const (
	waiting      = 512 // parcels that may wait to be sent
	crowded      = 64  // waiting parcels over which previews are passed over
	redial       = 500 * time.Millisecond
	writeWithin  = 10 * time.Second // a node that takes nothing for so long is let go
	indexWithin  = time.Second      // how long an event waits for the commit that it relies on
	targetsEvery = time.Second
	linkBuffer   = 32 << 10 // bytes: a preview and what comes with it
)

// Target is a node to be told of jobs and of this node.
type Target struct {
	Node    cluster.NodeID
	Gateway bool // it has pages: it gets events
}

// LinksConfig of Links.
type LinksConfig struct {
	Gate    *Gate
	Targets func() []Target    // the core nodes that are there; asked every second
	Report  func() []byte      // what this node says of itself; asked every second
	Local   func(e jobs.Event) // this node's own pages; nil without any
	// Standing is what the jobs that run here have said so far, for a gateway that
	// comes in the middle of them. It must not block. Nil: no job runs here.
	Standing func() []jobs.Event
	Logger   *slog.Logger
}

// Links carries pictures, progress and reports from this node to the core
// nodes. It dials, so that a node needs to be reached by nobody. Nothing it
// carries is needed for a job to be right: a link that is down or slow loses
// pictures. A gateway to which a link comes up is told first how things stand.
type Links struct {
	cfg LinksConfig
	log *slog.Logger

	mu    sync.Mutex
	links map[cluster.NodeID]*link
}

// NewLinks returns Links that carry nothing before Run.
func NewLinks(cfg LinksConfig) *Links {
	return &Links{cfg: cfg, log: cfg.Logger.With("component", "link"), links: map[cluster.NodeID]*link{}}
}

// Publish hands an event to this node's pages and sends it to all gateways. It
// does not wait for them.
func (l *Links) Publish(e jobs.Event) {
	if l.cfg.Local != nil {
		l.cfg.Local(e)
	}
	l.Tell(e)
}

// Tell sends an event to the gateways of other nodes only. It does not wait for
// them.
func (l *Links) Tell(e jobs.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.links {
		if k.gateway {
			k.put(parcel{Event: &e}, e.Droppable)
		}
	}
}

// Flush waits until every gateway that is there has handled what was published
// before, or ctx ends: what comes after it may rely on that.
func (l *Links) Flush(ctx context.Context) {
	l.mu.Lock()
	var acks []<-chan struct{}
	for _, k := range l.links {
		if k.gateway {
			acks = append(acks, k.sync())
		}
	}
	l.mu.Unlock()
	for _, ack := range acks {
		select {
		case <-ack:
		case <-ctx.Done():
			return
		}
	}
}

// Run keeps a link to each target until ctx ends.
func (l *Links) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(targetsEvery)
	defer tick.Stop()
	for {
		l.retarget(ctx, &wg)
		report := l.cfg.Report()
		l.mu.Lock()
		for _, k := range l.links {
			k.tell(report)
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// retarget begins links to new targets and ends those to old ones.
func (l *Links) retarget(ctx context.Context, wg *sync.WaitGroup) {
	targets := l.cfg.Targets() // it may ask the network: nothing is held up meanwhile
	l.mu.Lock()
	defer l.mu.Unlock()
	now := map[cluster.NodeID]bool{}
	for _, t := range targets {
		if t.Node == l.cfg.Gate.cfg.Self {
			continue
		}
		now[t.Node] = true
		k := l.links[t.Node]
		if k == nil {
			k = newLink(l, t.Node)
			l.links[t.Node] = k
			linkCtx, end := context.WithCancel(ctx)
			k.end = end
			wg.Go(func() { k.run(linkCtx) })
		}
		late := t.Gateway && !k.gateway
		if k.gateway = t.Gateway; late {
			k.recount()
		}
	}
	for node, k := range l.links {
		if !now[node] {
			k.end()
			delete(l.links, node)
		}
	}
}

// link is the way to one node.
type link struct {
	l       *Links
	node    cluster.NodeID
	gateway bool // under Links.mu
	end     context.CancelFunc

	mu     sync.Mutex
	up     bool
	queue  []parcel
	report []byte // the newest, not sent yet
	syncs  uint64
	acks   map[uint64]chan struct{} // closed when the other side has handled so far, or the link broke
	wake   chan struct{}            // one token
}

func newLink(l *Links, node cluster.NodeID) *link {
	return &link{l: l, node: node, acks: map[uint64]chan struct{}{}, wake: make(chan struct{}, 1)}
}

// rise begins to carry. Nothing is published meanwhile, so that how things stand
// comes before what is new.
func (k *link) rise() {
	k.l.mu.Lock()
	defer k.l.mu.Unlock()
	k.mu.Lock()
	k.up = true
	k.mu.Unlock()
	if k.gateway {
		k.recount()
	}
}

// recount tells a gateway what the jobs that run here have said; under Links.mu.
func (k *link) recount() {
	if k.l.cfg.Standing == nil {
		return
	}
	for _, e := range k.l.cfg.Standing() {
		k.put(parcel{Event: &e}, false)
	}
}

// put adds a parcel. A link that is down keeps nothing: when it is up again the
// other side is told how things stand.
func (k *link) put(p parcel, droppable bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.up || droppable && len(k.queue) >= crowded || len(k.queue) >= waiting {
		return
	}
	k.queue = append(k.queue, p)
	k.kick()
}

func (k *link) tell(report []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.up {
		k.report = report
		k.kick()
	}
}

// sync returns a channel that is closed when the other side has handled
// everything so far, at once if the link is down.
func (k *link) sync() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	ack := make(chan struct{})
	if !k.up {
		close(ack)
		return ack
	}
	k.syncs++
	k.acks[k.syncs] = ack
	k.queue = append(k.queue, parcel{Sync: k.syncs})
	k.kick()
	return ack
}

func (k *link) kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *link) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := k.once(ctx); err != nil && ctx.Err() == nil {
			k.l.log.Debug("a link broke", "node", k.node, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

// once is one connection's life.
func (k *link) once(ctx context.Context) error {
	dial, cancel := context.WithTimeout(ctx, helloWithin)
	c, err := k.l.cfg.Gate.Dial(dial, k.node, cluster.PortLink, ForLink, "")
	cancel()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	k.rise()
	k.tell(k.l.cfg.Report())
	read := make(chan error, 1)
	go func() { read <- k.read(c) }()
	err = k.write(ctx, c, read)
	err = errors.Join(err, c.Close())
	<-read
	k.down()
	return err
}

// down forgets what was on its way and lets those go who waited for it.
func (k *link) down() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.up, k.queue, k.report = false, nil, nil
	for n, ack := range k.acks {
		close(ack)
		delete(k.acks, n)
	}
}

func (k *link) write(ctx context.Context, c net.Conn, read chan error) error {
	w := bufio.NewWriterSize(c, linkBuffer)
	for {
		k.mu.Lock()
		batch := k.queue
		k.queue = nil
		if k.report != nil {
			batch = append(batch, parcel{Report: k.report})
			k.report = nil
		}
		k.mu.Unlock()
		for _, p := range batch {
			if err := c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
				return err
			}
			if err := writeFrame(w, p); err != nil {
				return err
			}
		}
		if err := w.Flush(); err != nil { // within the deadline of the last
			return err
		}
		select {
		case <-k.wake:
		case err := <-read:
			read <- err // once waits for it as well
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// read takes the answers to syncs.
func (k *link) read(c net.Conn) error {
	for {
		var p parcel
		if err := readFrame(c, maxHello, &p); err != nil {
			return err
		}
		k.mu.Lock()
		if ack, ok := k.acks[p.Sync]; ok {
			close(ack)
			delete(k.acks, p.Sync)
		}
		k.mu.Unlock()
	}
}
