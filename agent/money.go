package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// Price is what a machine costs.
type Price struct {
	Hour     int64  `json:"hour"` // micro-units of the currency; 0 = nothing, or not known
	Currency string `json:"currency,omitempty"`
}

// parsePrice reads "0.70 EUR": per hour, in the machine's own currency.
func parsePrice(s string) (Price, error) {
	if s == "" {
		return Price{}, nil
	}
	bad := errors.New(`use a price per hour with its currency, e.g. "0.70 EUR"`)
	number, currency, ok := strings.Cut(strings.TrimSpace(s), " ")
	whole, part, _ := strings.Cut(number, ".")
	if currency = strings.TrimSpace(currency); !ok || len(currency) != 3 || strings.ToUpper(currency) != currency || len(part) > 6 || len(whole) > 6 {
		return Price{}, bad
	}
	n, err := strconv.ParseUint(whole+part+strings.Repeat("0", 6-len(part)), 10, 62)
	if err != nil || whole == "" {
		return Price{}, bad
	}
	return Price{Hour: int64(n), Currency: currency}, nil //nolint:gosec // at most twelve digits
}

// of is the cost of a span, in micro-units.
func (p Price) of(d time.Duration) int64 { return p.Hour * d.Milliseconds() / time.Hour.Milliseconds() }

// meter counts how long this machine has been rented. It lives in the state
// folder: an agent that is restarted goes on counting, and the time between
// counts too when it was short, since the machine is paid for meanwhile.
type meter struct {
	path  string
	price Price
	now   func() time.Time

	mu    sync.Mutex
	kept  reading
	dirty time.Time // when it was written last
}

// reading is the meter's file.
type reading struct {
	Since time.Time     `json:"since"` // the first start
	Up    time.Duration `json:"up"`
	At    time.Time     `json:"at"` // of Up
}

// The pace of the meter: restGap is the longest silence that still counts as a
// restart.
const (
	meterEvery = 10 * time.Second
	meterWrite = 5 * time.Minute
	restGap    = 15 * time.Minute
)

func newMeter(dir string, price Price, now func() time.Time) (*meter, error) {
	m := &meter{path: filepath.Join(dir, "meter.json"), price: price, now: now}
	raw, err := os.ReadFile(m.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read what this machine has cost: %w", err)
	default:
		_ = json.Unmarshal(raw, &m.kept) // a damaged one begins anew
	}
	at := now()
	if gap := at.Sub(m.kept.At); m.kept.Since.IsZero() || gap < 0 || gap > restGap {
		m.kept = reading{Since: at, At: at} // another rental
	}
	return m, nil
}

func (m *meter) run(ctx context.Context) error {
	tick := time.NewTicker(meterEvery)
	defer tick.Stop()
	for {
		m.up()
		select {
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.write()
		case <-tick.C:
		}
	}
}

// up is how long the machine has been rented, counted up to now.
func (m *meter) up() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if d := now.Sub(m.kept.At); d > 0 {
		m.kept.Up += d
	}
	m.kept.At = now
	if now.Sub(m.dirty) >= meterWrite {
		m.dirty = now
		_ = m.write() // the next one may go through
	}
	return m.kept.Up
}

func (m *meter) write() error {
	raw, err := json.Marshal(m.kept)
	if err != nil {
		return err
	}
	return writeSecret(m.path, raw)
}

// bill is what a node says of its cost.
type bill struct {
	Price Price `json:"price"`
	Spent int64 `json:"spent"` // micro-units since Since
	Since int64 `json:"since"` // milliseconds since 1970
}

func (m *meter) bill() bill {
	up := m.up()
	m.mu.Lock()
	defer m.mu.Unlock()
	return bill{Price: m.price, Spent: m.price.of(up), Since: m.kept.Since.UnixMilli()}
}

// ledger is what jobs have used, of all that the table still has.
type ledger struct {
	mu   sync.Mutex
	made time.Time
	used map[cluster.User]ui.Used

	counted time.Time
	disk    map[cluster.User]int64
}

// ledgerEvery is how often it is made: it reads all rows.
const ledgerEvery = 5 * time.Second

// disks is what everybody's files take.
func (l *ledger) disks(table func(func(*files.Table)), all []ui.Person, now time.Time) map[cluster.User]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.counted) < ledgerEvery {
		return l.disk
	}
	l.counted, l.disk = now, map[cluster.User]int64{}
	table(func(t *files.Table) {
		for _, p := range all {
			l.disk[p.Name] = t.Used(p.Name).Total()
		}
	})
	return l.disk
}

// rates is what one hour of a worker costs: its machine's price, shared by the
// workers of that machine.
func rates(all []heardOf) map[cluster.WorkerID]Price {
	out := map[cluster.WorkerID]Price{}
	for _, h := range all {
		if h.Bill == nil || h.Bill.Price.Hour == 0 {
			continue
		}
		for _, w := range h.Workers {
			out[w.ID] = Price{Hour: h.Bill.Price.Hour / int64(len(h.Workers)), Currency: h.Bill.Price.Currency}
		}
	}
	return out
}

// gpuTime is how long a job has held, or holds, a GPU in its newest attempt.
func gpuTime(j *jobs.Job, now int64) time.Duration {
	end := now
	switch {
	case j.Started == 0:
		return 0
	case j.GpuDone > 0:
		end = j.GpuDone
	case j.Ended > 0:
		end = j.Ended
	}
	return time.Duration(max(0, end-j.Started)) * time.Millisecond
}

// people is what each user's jobs have used.
func (l *ledger) people(each func(func(*jobs.Job) bool), rates map[cluster.WorkerID]Price, now time.Time) map[cluster.User]ui.Used {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.made) < ledgerEvery {
		return l.used
	}
	l.made, l.used = now, map[cluster.User]ui.Used{}
	each(func(j *jobs.Job) bool {
		if d := gpuTime(j, now.UnixMilli()); d > 0 {
			u := l.used[j.ID.User]
			u.Add(d.Milliseconds(), rates[j.Worker].of(d), rates[j.Worker].Currency)
			l.used[j.ID.User] = u
		}
		return true
	})
	return l.used
}

// priced completes rows of jobs with what their GPU time cost.
func priced(rates map[cluster.WorkerID]Price, lists ...[]ui.Job) {
	for _, list := range lists {
		for i := range list {
			j := &list[i]
			r := rates[cluster.WorkerID(j.Worker)]
			if r.Hour > 0 && j.GPU > 0 {
				j.Cost, j.Currency = r.of(time.Duration(j.GPU)*time.Millisecond), r.Currency
			}
		}
	}
}
