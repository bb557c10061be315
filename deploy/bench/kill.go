//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	killWriters = 4
	killBefore  = 1500 * time.Millisecond // writing before the kill
	killAtMost  = 30 * time.Second        // watched when nothing is acknowledged
	killTry     = 250 * time.Millisecond  // patience of one try of one job
	killPause   = 5 * time.Millisecond    // before the next try
)

// killed is what one leader kill gave.
type killed struct {
	gap       time.Duration // longest time without an acknowledgement, all writers together
	recovered bool
	acked     int
	lost      int // acknowledged and not there
	twice     int // there more than once
	extra     int // there and never acknowledged
}

// kill kills the leader under four writers and reads everything back. A writer
// tries the same job until it is acknowledged. They go on for watch after the
// kill, and longer while nothing is acknowledged.
func (c *cell) kill(ctx context.Context, watch time.Duration) (killed, error) {
	ctx, cancel := context.WithTimeout(ctx, killAtMost+2*time.Minute)
	defer cancel()
	var over atomic.Bool
	ids, ats := make([][]ID, killWriters), make([][]time.Time, killWriters)
	var mu sync.Mutex
	var last time.Time
	var wg sync.WaitGroup
	for i := range killWriters {
		wg.Go(func() {
			id, body := c.job(i)
			for !over.Load() {
				try, cancel := context.WithTimeout(ctx, killTry)
				err := c.q.Enqueue(try, i, id, body)
				cancel()
				if err != nil {
					time.Sleep(killPause)
					continue
				}
				now := time.Now()
				ids[i], ats[i] = append(ids[i], id), append(ats[i], now)
				mu.Lock()
				last = now
				mu.Unlock()
				id, body = c.job(i)
			}
		})
	}
	time.Sleep(killBefore)
	err := c.q.KillLeader(ctx)
	killedAt := time.Now()
	for err == nil && ctx.Err() == nil {
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		acked := last.Sub(killedAt) > 100*time.Millisecond // not one that was on its way
		mu.Unlock()
		if since := time.Since(killedAt); since > killAtMost || since > watch && acked {
			break
		}
	}
	over.Store(true) // the tries under way may still be acknowledged
	wg.Wait()
	if err != nil {
		return killed{}, fmt.Errorf("kill the leader: %w", err)
	}
	k := killed{recovered: last.Sub(killedAt) > 100*time.Millisecond}
	k.gap = longestGap(slices.Concat(ats...), killedAt.Add(-time.Second), time.Now())
	held, err := c.q.Held(ctx)
	if err != nil {
		return k, fmt.Errorf("read everything back: %w", err)
	}
	k.judge(slices.Concat(ids...), held)
	return k, nil
}

// longestGap between acknowledgements from from on, the end counted as one.
func longestGap(acks []time.Time, from, end time.Time) time.Duration {
	acks = append(acks, from, end)
	slices.SortFunc(acks, time.Time.Compare)
	var gap time.Duration
	for i, a := range acks[1:] {
		if a.After(from) {
			gap = max(gap, a.Sub(acks[i]))
		}
	}
	return gap
}

func (k *killed) judge(acked, held []ID) {
	times := map[ID]int{}
	for _, id := range held {
		times[id]++
	}
	k.acked = len(acked)
	for _, id := range acked {
		switch n := times[id]; {
		case n == 0:
			k.lost++
		case n > 1:
			k.twice++
		}
		delete(times, id)
	}
	k.extra = len(times)
}
