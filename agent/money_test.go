package agent

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

func TestPrices(t *testing.T) {
	for text, want := range map[string]Price{"": {}, "0.70 EUR": {700_000, "EUR"}, "1.61 USD": {1_610_000, "USD"}, "12 CHF": {12_000_000, "CHF"}, "0.000001 EUR": {1, "EUR"}} {
		if got, err := parsePrice(text); got != want || err != nil {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"0.70", "EUR", "0.70 eur", "-1 EUR", ".5 EUR", "0,70 EUR", "1e3 EUR", "0.1234567 EUR", "99999999 EUR"} {
		if got, err := parsePrice(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// Three providers, with restarts and a rental that ended in between: what is
// shown is the rate times the time that the machine was up.
func TestOnDemandMachineLeftRunning(t *testing.T) { // predecessor 87
	for _, c := range []struct {
		price string
		up    time.Duration
		every time.Duration // the agent is restarted so often, 0 = never
		down  time.Duration // and away for so long
	}{
		{"0.70 EUR", 8 * time.Hour, 0, 0},
		{"0.97 USD", 37 * time.Minute, 5 * time.Minute, 40 * time.Second},
		{"1.61 GBP", 26 * time.Hour, 3 * time.Hour, 10 * time.Minute},
	} {
		price, err := parsePrice(c.price)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		now := time.Unix(1_800_000_000, 0)
		clock := func() time.Time { return now }
		open := func() *meter {
			m, err := newMeter(dir, price, clock)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := open()
		end, restart := now.Add(c.up), now.Add(c.every)
		for now.Before(end) {
			now = now.Add(meterEvery)
			m.up()
			if c.every > 0 && now.After(restart) {
				now, restart = now.Add(c.down), now.Add(c.every) // killed: only what was written counts
				m = open()
			}
		}
		want := float64(price.Hour) * now.Sub(end.Add(-c.up)).Hours()
		if got := float64(m.bill().Spent); got < 0.98*want || got > 1.02*want {
			t.Errorf("%s for %s: spent %.0f, want %.0f", c.price, c.up, got, want)
		} else {
			t.Logf("spend price=%q up=%s spent=%.4f want=%.4f off=%.3f%%", c.price, c.up, got/1e6, want/1e6, 100*(got-want)/want)
		}
		now = now.Add(2 * time.Hour) // given back, and rented anew with the same disk
		if again := open().bill(); again.Spent != 0 {
			t.Errorf("a new rental begins at %d", again.Spent)
		}
	}
	if _, err := newMeter(filepath.Join(t.TempDir(), "nowhere"), Price{}, time.Now); err != nil {
		t.Error(err)
	}
}

func TestCostOfJobsAtTheirMachinesPrice(t *testing.T) {
	all := []heardOf{
		{report: report{Workers: []ui.Worker{{ID: "a/0"}, {ID: "a/1"}}, Bill: &bill{Price: Price{2_000_000, "EUR"}}}},
		{report: report{Workers: []ui.Worker{{ID: "b/0"}}, Bill: &bill{Price: Price{3_600_000, "USD"}}}},
		{report: report{Workers: []ui.Worker{{ID: "c/0"}}}},
	}
	rows := []jobs.Job{
		{ID: jobs.ID{User: "ann", Prompt: "1"}, Worker: "a/0", Started: 1000, GpuDone: 1000 + 3_600_000, Ended: 9_000_000},
		{ID: jobs.ID{User: "ann", Prompt: "2"}, Worker: "b/0", Started: 1000, Ended: 2000},
		{ID: jobs.ID{User: "ben", Prompt: "3"}, Worker: "c/0", Started: 1000, GpuDone: 3000},
		{ID: jobs.ID{User: "ben", Prompt: "4"}, Worker: "b/0"}, // waits
	}
	var l ledger
	got := l.people(func(f func(*jobs.Job) bool) {
		for i := range rows {
			f(&rows[i])
		}
	}, rates(all), time.UnixMilli(10_000_000))
	ann, ben := got["ann"], got["ben"]
	if ann.GPU != 3_601_000 || ann.Cost["EUR"] != 1_000_000 || ann.Cost["USD"] != 1000 || ben.GPU != 2000 || len(ben.Cost) != 0 {
		t.Errorf("ann %+v, ben %+v", ann, ben)
	}
	_ = cluster.User("")
}
