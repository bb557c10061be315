package gpu

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
)

// link is one connection to ComfyUI: its socket, what has come in and is not
// handled yet, and what was uploaded since it stands.
type link struct {
	socket   *comfy.Socket
	in       inbox
	lost     chan struct{} // closed by the reader when the socket has failed
	reader   sync.WaitGroup
	uploaded map[string]string // folder and name -> how a graph names it; Run's goroutine only
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
	l.in.wake, l.in.open = make(chan struct{}, 1), w.listening
	l.reader.Go(l.read)
	if w.cfg.Process != nil {
		w.run = w.cfg.Process.Generation()
	}
	w.link, w.probed = l, false
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
	if w.link == nil {
		return
	}
	if err := w.link.socket.Close(); err != nil {
		w.log.Debug("closing the socket", "err", err)
	}
	w.link.reader.Wait()
	w.link = nil
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
		l.in.put(e)
	}
}

// inbox keeps events for a job until they are handled. It takes all, so that a
// slow fetch of a result never holds up ComfyUI's own sending.
type inbox struct {
	mu   sync.Mutex
	open bool // a job is there to take events
	list []comfy.Event
	wake chan struct{} // one token when list is not empty
}

// crowded is how many events may wait before previews are passed over.
const crowded = 64

func (b *inbox) put(e comfy.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open || len(b.list) >= crowded && e.Frame != nil && e.Frame.Preview() {
		return
	}
	b.list = append(b.list, e)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() []comfy.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.list
	b.list = nil
	return out
}

// listen opens or closes the inbox; closing forgets what is in it.
func (b *inbox) listen(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open, b.list = on, nil
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
