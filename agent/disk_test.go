package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/ui"
)

// fakeDisk is a disk of 1000 GB and a clock.
type fakeDisk struct {
	used float64 // GB
	now  time.Time
}

func (d *fakeDisk) gauge() *gauge {
	g := newGauge("/state", func() time.Time { return d.now })
	g.measure = func(string) (int64, int64, error) { return int64((1000 - d.used) * 1e9), 1e12, nil }
	return g
}

// pass lets time go by in steps of what health does, and the disk grow by GB an hour.
func (d *fakeDisk) pass(t *testing.T, g *gauge, hours, grow float64) (last ui.Space) {
	t.Helper()
	begin, from := d.now, d.used
	for at := time.Duration(0); at <= time.Duration(hours*float64(time.Hour)); at += time.Minute {
		d.now = begin.Add(at)
		d.used = from + at.Hours()*grow
		var err error
		if last, err = g.look(); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// TestNobodySawThatTheDiskWouldBeFull: how long it lasts is said hours before.
func TestNobodySawThatTheDiskWouldBeFull(t *testing.T) { // predecessor 39, 61
	d := &fakeDisk{used: 500, now: time.Unix(1_800_000_000, 0)}
	g := d.gauge()
	is := func(when string, s ui.Space, want string) {
		t.Helper()
		if got := ui.FullWords(s.Full); got != want {
			t.Errorf("%s: 90 %% %s (%d s at %.0f GB), want %s", when, got, s.Full, d.used, want)
		}
	}
	is("at the start", d.pass(t, g, 0, 0), "-")
	is("after five minutes", d.pass(t, g, 5./60, 0), "-")
	is("while nothing grows", d.pass(t, g, 1, 0), "never")
	is("after three hours of 40 GB each", d.pass(t, g, 3, 40), "in about 7 h") // 620 of 900
	d.used = 100                                                               // somebody makes room
	is("just after room was made", d.pass(t, g, 0, 0), "never")
	is("an hour of 10 GB later", d.pass(t, g, 1, 10), "in about 3 days")
	is("while it shrinks", d.pass(t, g, 7, -10), "never")
	d.used = 880
	is("after two hours of 5 GB", d.pass(t, d.gauge(), 2, 5), "in about 2 h")
	d.used = 930
	is("when it is full", d.pass(t, g, 0, 0), "now")
	if n := len(g.ring); n > samples {
		t.Errorf("%d samples are kept", n)
	}
}

// The check says how full, until when, and what is refused.
func TestDiskCheckSaysWhatIsRefused(t *testing.T) {
	for _, c := range []struct {
		used float64
		bad  bool
		says string
	}{{69, false, "69 % used, 310 GB free, 90 % -"}, {70, true, "70 %"}, {84, true, "90 %"}, {85, true, "no new jobs and uploads"}, {90, true, "results are refused too"}} {
		d := &fakeDisk{used: 10 * c.used, now: time.Unix(1_800_000_000, 0)}
		detail, err := checkDisk(d.gauge().look).do(t.Context())
		if (err != nil) != c.bad || !strings.Contains(detail, c.says) {
			t.Errorf("at %.0f %%: %q, %v", c.used, detail, err)
		}
	}
}

// A row that is sent only when it changes must not change all the while.
func TestDiskRowStandsStill(t *testing.T) {
	a := spaceShown(ui.Space{Free: 12_345_678_901, Total: 80_000_000_000, Full: 5*3600 + 1234})
	b := spaceShown(ui.Space{Free: 12_324_000_000, Total: 80_000_000_000, Full: 5*3600 + 12})
	if *a != *b || a.Full != 5*3600 {
		t.Errorf("%+v and %+v", a, b)
	}
	if s := spaceShown(ui.Space{Full: ui.FullNever}); s.Full != ui.FullNever {
		t.Errorf("never became %d", s.Full)
	}
}
