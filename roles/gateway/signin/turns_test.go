package signin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// queue lets waiters come in an order and notes in which they go.
type queue struct {
	*turns
	mu   sync.Mutex
	went []string
	all  sync.WaitGroup
}

// come lets somebody wait; they keep their turn until next is called.
func (q *queue) come(name string, t turn) {
	q.all.Go(func() {
		if err := q.take(context.Background(), t); err != nil {
			return
		}
		q.mu.Lock()
		q.went = append(q.went, name)
		q.mu.Unlock()
	})
	synctest.Wait()
}

func (q *queue) next() { q.give(); synctest.Wait() }

// TestWhoIsNext: a flood waits behind everybody who is not part of it.
func TestWhoIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{turns: newTurns(1)}
		for i := range 6 {
			q.come(fmt.Sprint("flood", i), turn{from: "attacker", as: fmt.Sprint("user", i%2, "@attacker")})
		}
		q.next() // one of them has had a turn, and the next one of them has it
		q.come("newcomer", turn{from: "elsewhere", as: "user9@elsewhere"})
		q.come("neighbour", turn{from: "attacker", as: "user9@attacker"})
		q.come("known", turn{known: true, from: "attacker", as: "user1@attacker"})
		for range 10 {
			q.next()
		}
		q.all.Wait()
		if got := strings.Join(q.went[2:5], " "); got != "known newcomer neighbour" {
			t.Errorf("went: %v", q.went)
		}
		if len(q.went) != 9 || !slices.IsSorted(slices.DeleteFunc(q.went, func(s string) bool { return !strings.HasPrefix(s, "flood") })) {
			t.Errorf("went: %v", q.went)
		}
		if q.next(); q.free < 1 {
			t.Errorf("%d turns are free", q.free)
		}
	})
}

// TestWhoGivesUpLeavesNoTurnBehind: a turn that comes at the moment in which its
// waiter gives up goes to the next.
func TestWhoGivesUpLeavesNoTurnBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1)
		if err := q.take(context.Background(), turn{from: "a", as: "a"}); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		codes := make([]cluster.Code, 100)
		for i := range codes {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7)*time.Second)
				defer cancel()
				err := q.take(ctx, turn{from: fmt.Sprint(i), as: fmt.Sprint(i)})
				if codes[i] = cluster.CodeOf(err); err == nil {
					time.Sleep(time.Second)
					q.give()
				}
			})
		}
		time.Sleep(3 * time.Second)
		q.give()
		all.Wait()
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.free != 1 || len(q.waiting) != 0 || len(q.had) != 0 {
			t.Errorf("%d free, %d wait, %d counted", q.free, len(q.waiting), len(q.had))
		}
		for i, c := range codes {
			if c != "" && c != cluster.Unavailable {
				t.Errorf("waiter %d: %q", i, c)
			}
		}
	})
}

// TestWaitingIsBounded: one address holds some places and never all.
func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1)
		ctx, cancel := context.WithCancel(context.Background())
		_ = q.take(ctx, turn{from: "a", as: "a"})
		var all sync.WaitGroup
		var mu sync.Mutex
		full := 0
		come := func(from string) {
			all.Go(func() {
				if q.take(ctx, turn{from: from, as: from}) != nil && ctx.Err() == nil {
					mu.Lock()
					full++
					mu.Unlock()
				}
			})
		}
		for range maxWaitingFrom + 50 {
			come("attacker")
		}
		synctest.Wait()
		if full != 50 {
			t.Errorf("%d of one address were turned away, want 50", full)
		}
		for i := range maxWaiting {
			come(fmt.Sprint(i))
		}
		synctest.Wait()
		if full != 50+maxWaitingFrom {
			t.Errorf("%d were turned away in all, want %d", full, 50+maxWaitingFrom)
		}
		cancel()
		all.Wait()
	})
}
