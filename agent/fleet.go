package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/roles/gpu"
	"github.com/ahelme/comfyume/roles/gpu/comfyui"
	"github.com/ahelme/comfyume/roles/gpu/sensors"
)

// fleet is this node's ComfyUIs and the workers that drive them: those that are
// there already, by address, and those that it starts itself.
type fleet struct {
	a     *Agent
	cfg   *Config
	log   *slog.Logger
	meter *meter
	dog   *watchdog

	mu      sync.Mutex
	all     []*worker
	trouble string // why there are no workers yet
	cards   []sensors.GPU
	sensed  time.Time
	blind   string // why the cards cannot be read
	leave   *leaving
}

// worker is one ComfyUI of this node and its driver.
type worker struct {
	id      cluster.WorkerID
	gpu     *gpu.Worker
	process *comfyui.Process // nil when others started it
	card    int              // index of its GPU, -1 = not known
	spent   atomic.Int64     // processor time that was seen last, in milliseconds
}

func newFleet(a *Agent) *fleet {
	return &fleet{a: a, cfg: &a.cfg, log: a.cfg.Logger.With("component", "gpus")}
}

// workers are those that there are now.
func (f *fleet) workers() []*worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

// find looks for a worker by its id, or the number after the node's name.
func (f *fleet) find(id cluster.WorkerID) (*worker, error) {
	for _, w := range f.workers() {
		if w.id == id {
			return w, nil
		}
	}
	return nil, cluster.Errorf(cluster.NotFound, "there is no worker %q here: see worker ls", id)
}

// attach builds a worker for a ComfyUI that is there already.
func (f *fleet) attach(url string) (*worker, error) {
	w := &worker{id: f.nextID(), card: -1}
	return w, f.enlist(w, url, 1)
}

func (f *fleet) nextID() cluster.WorkerID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cluster.WorkerID(fmt.Sprintf("%s/%d", f.a.self.Name, len(f.all)))
}

// enlist gives a worker its driver and enters it.
func (f *fleet) enlist(w *worker, url string, share int) error {
	a := f.a
	work := a.swarm.work()
	blobs := blob.Store(a.swarm.blobs)
	if !a.swarm.alone {
		blobs = a.swarm.store() // an input may have come in at another gateway
	}
	cfg := gpu.Config{
		ID: w.id, Node: a.self.ID, URL: url, Queue: work, Blobs: blobs, Secrets: work.Secrets, Publish: a.swarm.links.Publish, Flush: a.swarm.links.Flush,
		Register: func(ctx context.Context, row models.Worker) error { return work.Register(ctx, row) }, Logger: a.cfg.Logger,
		Version: f.cfg.ComfyUIVersion, Share: share, Working: func() bool { return f.working(w) }, Patience: gpu.Patience{Stuck: f.cfg.NoProgress},
	}
	if w.process != nil {
		cfg.Process = w.process
	}
	if a.swarm.core != nil {
		cfg.Await = a.await
	}
	if !a.cfg.Has(cluster.Gateway) {
		cfg.Depot = &peer.Depot{Client: a.swarm.client, Local: a.swarm.blobs, Keepers: a.swarm.keepers}
	}
	var err error
	if w.gpu, err = gpu.New(cfg); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, w)
	if f.leave != nil {
		w.gpu.StandAside(gpu.Leaving, f.leave.why)
	}
	return nil
}

// standing is what was said of the jobs that run.
func (f *fleet) standing() (out []jobs.Event) {
	for _, w := range f.workers() {
		out = append(out, w.gpu.Standing()...)
	}
	return out
}

// lookForGPU is how often a machine without a GPU is looked at again: a driver
// may come up late.
const lookForGPU = 30 * time.Second

// supervise starts a ComfyUI for each GPU, or several, and keeps them running
// until ctx ends. The workers end first: they give their jobs back.
func (f *fleet) supervise(ctx context.Context) error {
	cards, account, err := f.survey(ctx)
	for err != nil {
		f.unavailable(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookForGPU):
		}
		cards, account, err = f.survey(ctx)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var drivers, processes sync.WaitGroup
	defer processes.Wait()
	defer stop()
	port := f.cfg.ComfyUIPort
	for _, c := range cards {
		for range f.cfg.WorkersPerGPU {
			port = freePort(port)
			w, err := f.launch(c, account, port)
			if err != nil {
				f.unavailable(err)
				break
			}
			port++
			processes.Go(func() { _ = w.process.Run(running) }) // ends with running only
			drivers.Go(func() { _ = w.gpu.Run(ctx) })
		}
	}
	<-ctx.Done()
	drivers.Wait()
	return nil
}

// unavailable notes why the role cannot work on this machine. Nothing else of
// the node minds.
func (f *fleet) unavailable(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if text := err.Error(); f.trouble != text {
		f.trouble = text
		f.log.Warn("the role gpu is unavailable", "why", text)
	}
}

// card is one GPU on which ComfyUI is started.
type card struct {
	index int
	env   []string // which of them ComfyUI sees
}

// survey finds the GPUs, and the user that shall run ComfyUI.
func (f *fleet) survey(ctx context.Context) ([]card, comfyui.Account, error) {
	account, err := comfyui.FindAccount(f.cfg.ComfyUIUser)
	if err != nil {
		return nil, account, err
	}
	if slices.Contains(strings.Fields(f.cfg.ComfyUIArgs), "--cpu") || runtime.GOOS == "darwin" {
		return []card{{index: -1}}, account, nil
	}
	all, tool, err := sensors.Reader{}.Read(ctx)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no GPU was found: %s lists none", tool)
	}
	if err != nil {
		return nil, account, fmt.Errorf("%w (--comfyui-args=--cpu runs without one)", err)
	}
	var out []card
	for _, g := range all {
		env := []string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=" + strconv.Itoa(g.Index)}
		if tool == sensors.ROCm {
			env = []string{"HIP_VISIBLE_DEVICES=" + strconv.Itoa(g.Index)}
		}
		out = append(out, card{g.Index, env})
	}
	return out, account, nil
}

// freePort is the first from a port on that nobody has.
func freePort(port int) int {
	for ; port < 1<<16-1; port++ {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = ln.Close()
			break
		}
	}
	return port
}

// launch makes the process and its worker. Neither runs yet.
func (f *fleet) launch(c card, account comfyui.Account, port int) (*worker, error) {
	w := &worker{id: f.nextID(), card: c.index}
	_, number, _ := strings.Cut(string(w.id), "/")
	var err error
	w.process, err = comfyui.New(comfyui.Config{
		Name: string(w.id), Dir: f.cfg.ComfyUIDir, Python: f.cfg.ComfyUIPython, Args: strings.Fields(f.cfg.ComfyUIArgs), Port: port,
		// Beside the state folder, not in it: ComfyUI's user may not look in there.
		Work: filepath.Join(f.cfg.StateDir+"-comfyui", number), ModelDirs: f.cfg.ModelDirs,
		Env: append(withoutSecrets(os.Environ()), c.env...), Account: account, Logger: f.cfg.Logger,
		Busy: func() bool { return w.gpu.Busy() },
	})
	if err != nil {
		return nil, err
	}
	return w, f.enlist(w, w.process.URL(), f.cfg.WorkersPerGPU)
}

// withoutSecrets is an environment for foreign code: nothing in it is the
// agent's own setting, of which some are passwords and keys, or its line to the
// service manager.
func withoutSecrets(env []string) []string {
	ours := map[string]bool{}
	for _, s := range Settings() {
		ours[s.Env], ours[s.Env+"_FILE"] = true, true
	}
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return ours[key] || strings.HasPrefix(key, envPrefix) || participantKey.MatchString(key) || strings.HasPrefix(key, "TS_") || ofManager(key)
	})
}

// enoughWork is how much processor time between two looks is a sign of work, and
// idleLoad the load of a GPU, in per cent, that is none.
const (
	enoughWork = 500 * time.Millisecond
	idleLoad   = 5
)

// working reports whether something is seen to work behind a worker whose job
// shows no progress.
func (f *fleet) working(w *worker) bool {
	f.mu.Lock()
	i := slices.IndexFunc(f.cards, func(g sensors.GPU) bool { return g.Index == w.card })
	busy := i >= 0 && f.cards[i].Load > idleLoad && time.Since(f.sensed) < time.Minute
	f.mu.Unlock()
	if busy || w.process == nil {
		return busy
	}
	now := w.process.Spent().Milliseconds()
	before := w.spent.Swap(now)
	return now-before > enoughWork.Milliseconds()
}

// The pace at which the cards are read.
const (
	senseEvery = 5 * time.Second
	senseLater = time.Minute // after a failure: a driver that hangs is not asked all the time
)

// sense reads the cards until ctx ends.
func (f *fleet) sense(ctx context.Context) error {
	for {
		all, _, err := sensors.Reader{}.Read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		pause := senseEvery
		f.mu.Lock()
		f.blind = ""
		switch {
		case errors.Is(err, sensors.ErrNone):
			pause = senseLater
		case err != nil:
			f.blind, pause = err.Error(), senseLater
		default:
			f.cards, f.sensed = all, time.Now()
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// gauge is a worker's card as it was read last.
func (f *fleet) gauge(w *worker) (sensors.GPU, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.sensed) > senseLater {
		return sensors.GPU{}, false
	}
	if w.card < 0 && len(f.cards) == 1 && w.process == nil {
		return f.cards[0], true
	}
	for _, g := range f.cards {
		if g.Index == w.card {
			return g, true
		}
	}
	return sensors.GPU{}, false
}

// hasJob reports whether any of this node's workers has a job.
func (f *fleet) hasJob() bool {
	return slices.ContainsFunc(f.workers(), func(w *worker) bool { return w.gpu.Busy() })
}

func (f *fleet) isReclaimed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leave != nil && f.leave.forGood
}

// contact is when this node last had word of a leader.
func (s *swarm) contact() time.Time {
	if s.core != nil {
		if s.core.raft.Leader() != "" {
			return time.Now()
		}
		return time.Time{}
	}
	s.guest.mu.Lock()
	defer s.guest.mu.Unlock()
	return s.guest.entered
}
