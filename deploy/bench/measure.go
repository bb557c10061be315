//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one phase, beside its time.
const (
	maxPhaseJobs  = 200_000
	maxPhaseBytes = 256 << 20
	maxErrors     = 20
	warmUp        = 300 * time.Millisecond
	idleGap       = 20 * time.Millisecond // before each job of the dispatch phase
)

// figure is what one phase gave.
type figure struct {
	perSec    float64
	p50, p99  float64 // ms
	flushes   float64 // of the device, a job
	cpu       float64 // us of the servers, a job
	clientCPU float64 // us of this process, a job
	foreign   float64 // cores that neither the servers nor this process used
	wall      time.Duration
	n         int
	errors    int
}

// cell is one system with one body size and one number of clients.
type cell struct {
	q       Queue
	dev     device
	clients int
	bodies  [][]byte     // of each client; random, so that nothing compresses
	made    []int        // jobs each client made so far
	stock   atomic.Int64 // jobs waiting, as far as answers told
}

// newCell makes a cell with that many clients; the last one is for dispatch.
func newCell(q Queue, dev device, clients, body int) *cell {
	c := &cell{q: q, dev: dev, clients: clients, made: make([]int, clients)}
	for range clients {
		b := make([]byte, body)
		_, _ = rand.Read(b) // never fails
		c.bodies = append(c.bodies, b)
	}
	return c
}

// job stamps the client's next id into its body.
func (c *cell) job(client int) (ID, []byte) {
	id := newID(client, c.made[client])
	c.made[client]++
	copy(c.bodies[client], id)
	return id, c.bodies[client]
}

func (c *cell) enqueue(ctx context.Context, client int) (bool, error) {
	id, body := c.job(client)
	err := c.q.Enqueue(ctx, client, id, body)
	if err == nil {
		c.stock.Add(1)
	}
	return true, err
}

func (c *cell) work(ctx context.Context, client int) (bool, error) {
	ok, err := c.q.ReserveComplete(ctx, client)
	if ok && err == nil {
		c.stock.Add(-1)
	}
	return ok, err
}

// loadEnqueue measures enqueueing.
func (c *cell) loadEnqueue(ctx context.Context, d time.Duration) (figure, error) {
	return c.load(ctx, d, min(maxPhaseJobs, maxPhaseBytes/len(c.bodies[0])), c.enqueue)
}

// loadWork measures reserving and completing. It uses up to share percent of
// the stock: a phase that runs dry would measure waiting.
func (c *cell) loadWork(ctx context.Context, d time.Duration, share int) (figure, error) {
	return c.load(ctx, d, max(1, int(c.stock.Load())*share/100), c.work)
}

// load lets every client call op in a closed loop until the time is over, the
// limit is reached or a client finds no more work. What ends later does not count.
func (c *cell) load(ctx context.Context, d time.Duration, limit int, op func(context.Context, int) (bool, error)) (figure, error) {
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	var begun atomic.Int64
	var over atomic.Bool
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { over.Store(true); close(ended) })
	took := make([][]time.Duration, c.clients)
	errs := make([][]error, c.clients)
	before, err := takeUsage(c.q.Servers(), c.dev)
	if err != nil {
		return figure{}, err
	}
	var wg sync.WaitGroup
	for i := range c.clients {
		wg.Go(func() {
			for !over.Load() {
				if begun.Add(1) > int64(limit) {
					end()
					return
				}
				t := time.Now()
				ok, err := op(ctx, i)
				switch {
				case over.Load():
				case err != nil:
					if errs[i] = append(errs[i], err); len(errs[i]) >= maxErrors || ctx.Err() != nil {
						end()
					}
				case !ok:
					end()
				default:
					took[i] = append(took[i], time.Since(t))
				}
			}
		})
	}
	select {
	case <-time.After(d):
	case <-ended:
	}
	end()
	after, err := takeUsage(c.q.Servers(), c.dev)
	wg.Wait()
	if err != nil {
		return figure{}, err
	}
	f, failed := newFigure(before, after, slices.Concat(took...)), slices.Concat(errs...)
	if f.errors = len(failed); f.errors >= maxErrors || f.n == 0 {
		return f, fmt.Errorf("%d jobs, %d errors: %w", f.n, f.errors, errors.Join(failed[:min(2, len(failed))]...))
	}
	return f, ctx.Err()
}

func newFigure(before, after usage, took []time.Duration) figure {
	f := figure{n: len(took)}
	if f.n == 0 {
		return f
	}
	f.wall = after.at.Sub(before.at)
	own, servers := after.own-before.own, after.servers-before.servers
	n := float64(f.n)
	f.perSec = n / f.wall.Seconds()
	f.p50, f.p99 = percentile(took, 50), percentile(took, 99)
	f.flushes = float64(after.flushes-before.flushes) / n
	f.cpu, f.clientCPU = servers.Seconds()*1e6/n, own.Seconds()*1e6/n
	busy := time.Duration(after.cpus)*f.wall - (after.idle - before.idle) // stolen time counts as foreign too
	f.foreign = max(0, (busy-own-servers).Seconds()/f.wall.Seconds())
	return f
}

// percentile sorts took and returns the p-th in milliseconds.
func percentile(took []time.Duration, p int) float64 {
	slices.Sort(took)
	return float64(took[min(len(took)-1, len(took)*p/100)]) / float64(time.Millisecond)
}

// dispatch measures, n times from idle, the time from the start of an enqueue
// until the one waiting worker holds the job. The queue must be empty.
func (c *cell) dispatch(ctx context.Context, n int) (figure, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second+time.Duration(n)*100*time.Millisecond)
	defer cancel()
	const worker = 0
	producer := c.clients - 1 // no load phase uses it: its jobs must not be dealt out again
	type taken struct {
		at  time.Time
		id  ID
		err error
	}
	waits, got := make(chan struct{}, 1), make(chan taken, 1)
	go func() { // ends when ctx does, or after n jobs
		defer close(got)
		for range n + 1 {
			waits <- struct{}{}
			id, complete, err := c.q.Take(ctx, worker)
			at := time.Now()
			if err == nil {
				err = complete(ctx)
			}
			got <- taken{at, id, err}
			if err != nil {
				return
			}
		}
	}()
	var took []time.Duration
	var before usage
	for i := range n + 1 { // the first makes connections and is not counted
		<-waits
		time.Sleep(idleGap)
		if i == 1 {
			var err error
			if before, err = takeUsage(c.q.Servers(), c.dev); err != nil {
				return figure{}, err
			}
		}
		id, body := c.job(producer)
		begin := time.Now()
		err := c.q.Enqueue(ctx, producer, id, body)
		t := <-got
		if err = errors.Join(err, t.err); err == nil && t.id != id {
			err = fmt.Errorf("the worker holds %s", t.id)
		}
		if err != nil {
			return figure{}, fmt.Errorf("dispatch of job %s: %w", id, err)
		}
		if i > 0 {
			took = append(took, t.at.Sub(begin))
		}
	}
	after, err := takeUsage(c.q.Servers(), c.dev)
	return newFigure(before, after, took), err
}
