package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// A serverless platform starts a container when a request comes and ends it when
// none is open. Its load balancer is blind: jobs never go through it. The agent
// in the container dials out and claims like any other, and two things keep the
// platform content:
//
//	GET  /      answers its probe at once
//	POST /work  stays open until this replica has nothing to do
//
// On the other side the node that leads keeps one request open per wanted replica.

// The pace of a replica's open request: it gives the agent time to join and get a
// first job, and the next job time to come.
const (
	replicaJoins = time.Minute
	replicaRests = 10 * time.Second
	replicaLook  = 250 * time.Millisecond
)

// replica is the web server of a container.
type replica struct {
	ln      net.Listener
	working func() bool
	joins   time.Duration
	rests   time.Duration
}

func (r *replica) run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /work", r.work)
	base, cut := context.WithCancel(context.Background())
	defer cut()
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return base }}
	served := make(chan error, 1) // one send
	go func() { served <- srv.Serve(r.ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the platform's probe: %w", err)
	case <-ctx.Done():
	}
	cut()
	err := srv.Close()
	<-served
	return err
}

// work stays open as long as there is work.
func (r *replica) work(w http.ResponseWriter, req *http.Request) {
	until := time.Now().Add(r.joins)
	tick := time.NewTicker(replicaLook)
	defer tick.Stop()
	for time.Now().Before(until) {
		select {
		case <-req.Context().Done():
			return
		case <-tick.C:
		}
		if r.working() {
			until = time.Now().Add(r.rests)
		}
	}
	fmt.Fprintln(w, "done")
}

// waker asks a platform for replicas while jobs wait.
type waker struct {
	target string // address of /work, or a command
	token  Secret
	most   int
	wanted func() int // jobs that wait or run, 0 on a node that does not lead
	log    interface{ Warn(string, ...any) }
	client *http.Client

	mu   sync.Mutex
	open int

	said  int       // what the command was told last
	again time.Time // when it is told so again
}

// How often it looks, and how often the command is told the same while jobs
// are there: what it woke may have died, or it may have failed.
const (
	wakeEvery     = time.Second
	wakeAgain     = time.Minute
	wakeAfterFail = 5 * time.Second
)

func (w *waker) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	tick := time.NewTicker(wakeEvery)
	defer tick.Stop()
	for {
		w.look(ctx, &calls)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *waker) look(ctx context.Context, calls *sync.WaitGroup) {
	want := min(w.wanted(), w.most)
	if !strings.HasPrefix(w.target, "http://") && !strings.HasPrefix(w.target, "https://") {
		w.tell(ctx, want)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; w.open < want; w.open++ {
		calls.Go(func() {
			err := w.hold(ctx)
			if err != nil && ctx.Err() == nil {
				w.log.Warn("a request that keeps a replica up ended early", "err", err)
				select { // a platform that refuses is not asked all the time
				case <-ctx.Done():
				case <-time.After(wakeAfterFail):
				}
			}
			w.mu.Lock()
			w.open--
			w.mu.Unlock()
		})
	}
}

// tell runs the command when it has not been told of so many jobs lately.
func (w *waker) tell(ctx context.Context, want int) {
	if want == w.said && (want == 0 || time.Now().Before(w.again)) {
		return
	}
	w.said = want
	if want == 0 {
		return
	}
	pause := wakeAgain
	if err := w.command(ctx, want); err != nil {
		w.log.Warn("the wake command failed", "err", err)
		pause = wakeAfterFail
	}
	w.again = time.Now().Add(pause)
}

// hold keeps one request open until its replica says that it is done.
func (w *waker) hold(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.target, nil)
	if err != nil {
		return err
	}
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+string(w.token))
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return errors.New("the platform does not answer") // its address may hold a key
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the platform answered %d", resp.StatusCode)
	}
	return nil
}

func (w *waker) command(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, hookWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", w.target) //nolint:gosec // the admin's own
	cmd.Env = append(withoutSecrets(os.Environ()), "COMFYUME_REPLICAS="+strconv.Itoa(want))
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[:min(len(out), 300)])))
	}
	return nil
}

// openJobs is how many jobs wait or run, for the node that leads.
func (c *core) openJobs() (n int) {
	if !c.raft.Leads() {
		return 0
	}
	c.machine.Jobs(func(t *jobs.Table) { s := t.Count(); n = s.Waiting + s.Running })
	return n
}

// startServerless starts what was asked for.
func (a *Agent) startServerless() error {
	if addr := a.cfg.ProbeListen; addr != "" {
		ln, err := listen("probe-listen", addr)
		if err != nil {
			return err
		}
		r := &replica{ln: ln, joins: replicaJoins, rests: replicaRests, working: func() bool {
			f := a.roles.fleet.Load()
			return f != nil && f.hasJob()
		}}
		a.stack.run("platform's probe", r.run)
	}
	if a.cfg.Wake != "" && a.swarm.core != nil {
		w := &waker{target: a.cfg.Wake, token: a.cfg.WakeToken, most: a.cfg.WakeReplicas, wanted: a.swarm.core.openJobs, log: a.log, client: &http.Client{}}
		a.stack.run("wake", w.run)
	}
	return nil
}
