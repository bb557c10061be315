package consensus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Bounds of one entry: proposals that wait together share one flush.
const (
	maxEntryBytes = 512 << 10
	maxEntryCmds  = 256
	applyTimeout  = 10 * time.Second
)

type proposal struct {
	cmds  [][]byte
	bytes int
	done  chan result // buffered, one send
}

type result struct {
	answers [][]byte
	index   uint64
	err     error
}

// batcher packs concurrent proposals into entries, one after the other: what
// comes while one is on its way goes into the next. Two on their way at once
// would carry half as much each, and cost a third more.
type batcher struct {
	l     *Log
	in    chan proposal // never closed; run stops reading when its ctx ends
	ended chan struct{} // closed by run
	wg    sync.WaitGroup
}

func newBatcher(l *Log) *batcher {
	return &batcher{l: l, in: make(chan proposal, 4*maxEntryCmds), ended: make(chan struct{})}
}

func (b *batcher) propose(ctx context.Context, cmds [][]byte) ([][]byte, uint64, error) {
	p := proposal{cmds: cmds, done: make(chan result, 1)}
	for _, c := range cmds {
		p.bytes += len(c)
	}
	if p.bytes > maxEntryBytes {
		return nil, 0, cluster.Errorf(cluster.TooLarge, "%d kB is over the limit of %d kB for one change", p.bytes>>10, maxEntryBytes>>10)
	}
	select {
	case b.in <- p:
	case <-b.ended:
		return nil, 0, errStopping
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	select {
	case r := <-p.done:
		return r.answers, r.index, r.err
	case <-b.ended:
		// run answered everything it took before it closed ended.
		select {
		case r := <-p.done:
			return r.answers, r.index, r.err
		default:
			return nil, 0, errStopping
		}
	case <-ctx.Done():
		return nil, 0, cluster.Errorf(cluster.Unavailable, "the change was not confirmed in time; it may still take effect")
	}
}

func (b *batcher) run(ctx context.Context) {
	defer close(b.ended)
	defer b.wg.Wait()
	var next *proposal
	for {
		var batch []proposal
		if next != nil {
			batch = append(batch, *next)
		} else {
			select {
			case p := <-b.in:
				batch = append(batch, p)
			case <-ctx.Done():
				return
			}
		}
		batch, next = b.fill(batch)
		b.commit(batch)
	}
}

// fill adds what waits, up to the bounds; the first that does not fit is next.
func (b *batcher) fill(batch []proposal) ([]proposal, *proposal) {
	bytes, cmds := batch[0].bytes, len(batch[0].cmds)
	for {
		select {
		case p := <-b.in:
			if bytes+p.bytes > maxEntryBytes || cmds+len(p.cmds) > maxEntryCmds {
				return batch, &p
			}
			bytes, cmds = bytes+p.bytes, cmds+len(p.cmds)
			batch = append(batch, p)
		default:
			return batch, nil
		}
	}
}

func (b *batcher) commit(batch []proposal) {
	engine := b.l.engine.Load()
	if engine == nil {
		b.answer(batch, nil, 0, b.l.stopped())
		return
	}
	_, last := b.l.cfg.Machine.Applied()
	e := entry{Version: entryVersion, At: max(b.l.cfg.Now().UnixMilli(), last)}
	for _, p := range batch {
		e.Commands = append(e.Commands, p.cmds...)
	}
	data, err := cluster.Marshal(e)
	if err != nil {
		b.answer(batch, nil, 0, err)
		return
	}
	f := engine.raft.Apply(data, applyTimeout)
	if err := f.Error(); err != nil {
		b.answer(batch, nil, 0, b.l.refusal(err))
		return
	}
	answers, ok := f.Response().([][]byte)
	if !ok {
		err, _ = f.Response().(error)
		b.answer(batch, nil, 0, errors.Join(errors.New("entry could not be applied"), err))
		return
	}
	// A second machine may take its time, which is no reason for others to wait.
	b.wg.Go(func() {
		b.l.awaitCopy(engine, f.Index())
		b.answer(batch, answers, f.Index(), nil)
	})
}

func (b *batcher) answer(batch []proposal, answers [][]byte, index uint64, err error) {
	for _, p := range batch {
		r := result{index: index, err: err}
		if err == nil {
			r.answers, answers = answers[:len(p.cmds)], answers[len(p.cmds):]
		}
		p.done <- r
	}
}
