package gpu

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
)

// link is one connection to ComfyUI: its socket, who hears of what comes in, and
// what was uploaded since it stands.
type link struct {
	socket   *comfy.Socket
	lost     chan struct{} // closed by the reader when the socket has failed
	reader   sync.WaitGroup
	doomed   atomic.Bool       // the process at the other end is about to be ended
	uploaded map[string]string // folder and name -> how a graph names it; for the one attempt that is prepared

	mu    sync.Mutex
	boxes []*inbox // of the jobs that ComfyUI has or had, the newest last
}

// dialTimeout bounds one try: a ComfyUI that loads a model can take long to answer.
const dialTimeout = 30 * time.Second

// clientID is one fixed name: what was meant for an earlier connection of this
// worker comes to the next.
func (w *Worker) clientID() string { return "gw-" + string(w.cfg.ID) }

// dial opens a connection in place of the old one.
func (w *Worker) dial(ctx context.Context) error {
	w.hangUp()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	socket, err := w.client.Dial(ctx, w.clientID(), map[string]any{"supports_preview_metadata": true})
	if err != nil {
		return err
	}
	l := &link{socket: socket, lost: make(chan struct{}), uploaded: map[string]string{}}
	if w.cfg.Process != nil {
		w.run = w.cfg.Process.Generation()
	}
	w.probed = false
	w.mu.Lock()
	w.link = l
	if w.inbox != nil {
		l.boxes = []*inbox{w.inbox}
	}
	w.mu.Unlock()
	l.reader.Go(l.read)
	w.note(func(s *Status) { s.Connected = true })
	w.log.Info("connected to ComfyUI", "url", w.client.URL())
	return nil
}

// replaced reports whether the process that was connected last is known to have
// ended.
func (w *Worker) replaced() bool {
	return w.cfg.Process != nil && w.run != 0 && w.cfg.Process.Generation() != w.run
}

// hangUp ends the connection, if there is one.
func (w *Worker) hangUp() {
	w.mu.Lock()
	l := w.link
	w.link = nil
	w.mu.Unlock()
	if l == nil {
		return
	}
	if err := l.socket.Close(); err != nil {
		w.log.Debug("closing the socket", "err", err)
	}
	l.reader.Wait()
	w.note(func(s *Status) { s.Connected = false })
}

func (l *link) dead() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// read takes all that comes; Close of the socket ends it.
func (l *link) read() {
	defer close(l.lost)
	for {
		e, err := l.socket.Read(context.Background())
		if err != nil {
			return
		}
		l.deliver(e)
	}
}

// deliver gives an event to the job that it names; one that names none is the
// newest job's. What is about others is passed over.
func (l *link) deliver(e comfy.Event) {
	var id string
	var named bool
	if e.Frame != nil {
		id, named = e.Frame.PromptID()
	} else {
		id, named = e.Message.PromptID()
	}
	l.mu.Lock()
	var to *inbox
	for _, b := range l.boxes {
		if !named || b.id == id {
			to = b
		}
	}
	l.mu.Unlock()
	if to != nil {
		to.put(e)
	}
}

// listen opens the way for a job's events, on this connection and on the next.
func (w *Worker) listen(b *inbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inbox = b
	if l := w.link; l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.boxes = append(l.boxes, b)
	}
}

// deafen closes it.
func (w *Worker) deafen(b *inbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inbox == b {
		w.inbox = nil
	}
	if l := w.link; l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.boxes = slices.DeleteFunc(l.boxes, func(c *inbox) bool { return c == b })
	}
}

// inbox keeps events for a job until they are handled. It takes all, so that a
// slow fetch of a result never holds up ComfyUI's own sending.
type inbox struct {
	id   string          // of the prompt at ComfyUI
	over func(well bool) // called at its last word

	mu   sync.Mutex
	well bool // it said that the job went well
	list []comfy.Event
	wake chan struct{} // one token when list is not empty
}

// crowded is how many events may wait before previews are passed over.
const crowded = 64

func (b *inbox) put(e comfy.Event) {
	if ends, well := b.add(e); ends {
		b.over(well)
	}
}

func (b *inbox) add(e comfy.Event) (ends, well bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.list) >= crowded && e.Frame != nil && e.Frame.Preview() {
		return false, false
	}
	b.list = append(b.list, e)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	if e.Message == nil {
		return false, false
	}
	b.well = b.well || e.Message.Type == comfy.TypeExecutionSuccess
	id, named := e.Message.PromptID()
	return named && id == b.id && e.Message.Ends(), b.well
}

// take empties the inbox.
func (b *inbox) take() []comfy.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.list
	b.list = nil
	return out
}

// systemStats asks how ComfyUI is and notes it.
func (w *Worker) systemStats(ctx context.Context) (comfy.SystemStats, error) {
	stats, err := w.client.SystemStats(ctx)
	if err != nil {
		return stats, fmt.Errorf("ask how ComfyUI is: %w", err)
	}
	w.note(func(s *Status) {
		s.Version, s.Frontend = stats.System.ComfyUIVersion, stats.System.RequiredFrontendVersion
		if len(stats.Devices) > 0 {
			d := stats.Devices[0]
			s.Device, s.VRAMTotal, s.VRAMFree = d.Name, d.VRAMTotal, d.VRAMFree
		}
	})
	return stats, nil
}
