package signin

import (
	"sync"
	"time"
)

// memo remembers values for a while, and at most so many of them. When it is
// full some go, whichever: nobody can choose whose.
type memo[K comparable, V any] struct {
	most int
	keep time.Duration
	now  func() time.Time

	mu  sync.Mutex
	all map[K]kept[V]
}

type kept[V any] struct {
	value V
	until time.Time
}

func newMemo[K comparable, V any](most int, keep time.Duration, now func() time.Time) *memo[K, V] {
	return &memo[K, V]{most: most, keep: keep, now: now, all: map[K]kept[V]{}}
}

func (m *memo[K, V]) get(k K) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.all[k]
	if !ok || !m.now().Before(e.until) {
		return v, false
	}
	return e.value, true
}

func (m *memo[K, V]) put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	thin(m.all, m.most)
	m.all[k] = kept[V]{v, m.now().Add(m.keep)}
}

// thin makes room in a full map: an eighth goes, by the map's own random order.
func thin[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	drop := max(1, most/8)
	for k := range m {
		if drop == 0 {
			return
		}
		delete(m, k)
		drop--
	}
}

// tries counts guesses: so many at once, and one more each time every is over.
type tries struct {
	burst float64
	every time.Duration
	now   func() time.Time

	mu  sync.Mutex
	all map[string]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// maxTries bounds the counters of one kind.
const maxTries = 10_000

func newTries(burst int, every time.Duration, now func() time.Time) *tries {
	return &tries{burst: float64(burst), every: every, now: now, all: map[string]*bucket{}}
}

// pay takes one guess of key's, or returns how long until there is one.
func (t *tries) pay(key string) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.all[key]
	if !ok {
		thin(t.all, maxTries)
		b = &bucket{left: t.burst, at: t.now()}
		t.all[key] = b
	}
	b.left = min(t.burst, b.left+t.now().Sub(b.at).Seconds()/t.every.Seconds())
	b.at = t.now()
	if b.left < 1 {
		return time.Duration((1 - b.left) * float64(t.every))
	}
	b.left--
	return 0
}

func (t *tries) giveBack(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, ok := t.all[key]; ok {
		b.left = min(t.burst, b.left+1)
	}
}
