package agent

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/state"
)

// TestStatusWhileEntriesAreApplied: a node that was just started shows workers
// of which it only knows from the table. Asking it then, while entries came in,
// once stopped it for good: the view asked the table while it was reading it.
func TestStatusWhileEntriesAreApplied(t *testing.T) {
	m := state.New(slog.New(slog.DiscardHandler))
	apply := func(index uint64, cmd cluster.Command) {
		raw, err := state.Encode(cmd, "", "")
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(index, 1, [][]byte{raw})
	}
	apply(1, &models.PutWorker{Worker: models.Worker{ID: "g1/0", Node: "n-g1", Caps: cluster.Ref(strings.Repeat("a", 64))}})
	v := &view{swarm: &swarm{core: &core{machine: m}}, now: time.Now}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := uint64(2); ; i++ {
			select {
			case <-stop:
				return
			default:
				apply(i, &state.Noop{})
			}
		}
	}()
	read := make(chan int, 1)
	go func() {
		n := 0
		for range 20_000 {
			n += len(v.workers(nil))
		}
		read <- n
	}()
	select {
	case n := <-read:
		if n != 20_000 {
			t.Errorf("%d workers were shown, want one each time", n)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the view and the log wait for each other")
	}
	close(stop)
	<-ended
}
