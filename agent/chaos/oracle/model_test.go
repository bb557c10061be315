package oracle

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// op is an operation on a document at some milliseconds.
func op(making bool, from, to int, o outcome) operation {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	return operation{path: "x", making: making, began: at(from), ended: at(to), outcome: o}
}

// TestAnswersThatContradictEachOther: the comparison can tell what is possible
// from what is not.
func TestAnswersThatContradictEachOther(t *testing.T) {
	const makes, deletes = true, false
	for name, c := range map[string]struct {
		ops  []operation
		want porcupine.CheckResult
	}{
		"made, deleted, made":                  {[]operation{op(makes, 0, 1, done), op(deletes, 2, 3, done), op(makes, 4, 5, done)}, porcupine.Ok},
		"made twice":                           {[]operation{op(makes, 0, 1, done), op(makes, 2, 3, done)}, porcupine.Illegal},
		"made twice at the same time":          {[]operation{op(makes, 0, 5, done), op(makes, 1, 4, done)}, porcupine.Illegal},
		"one of two at the same time":          {[]operation{op(makes, 0, 5, done), op(makes, 1, 4, refused)}, porcupine.Ok},
		"there, but nobody made it":            {[]operation{op(makes, 0, 1, refused)}, porcupine.Illegal},
		"the one whose fate is unknown did":    {[]operation{op(makes, 0, 1, unknown), op(makes, 2, 3, refused)}, porcupine.Ok},
		"it may do so late":                    {[]operation{op(makes, 0, 1, unknown), op(makes, 2, 3, done), op(deletes, 4, 5, done), op(makes, 6, 7, refused)}, porcupine.Ok},
		"but only once":                        {[]operation{op(makes, 0, 1, unknown), op(makes, 2, 3, refused), op(deletes, 4, 5, done), op(makes, 6, 7, refused)}, porcupine.Illegal},
		"nothing was changed, and yet it was":  {[]operation{op(makes, 0, 1, undone), op(makes, 2, 3, refused)}, porcupine.Illegal},
		"a deleted one that is there no more":  {[]operation{op(makes, 0, 1, done), op(deletes, 2, 3, done), op(deletes, 4, 5, refused)}, porcupine.Ok},
		"an accepted document that went away":  {[]operation{op(makes, 0, 1, done), op(deletes, 2, 3, refused)}, porcupine.Illegal},
		"a deletion whose fate is not known":   {[]operation{op(makes, 0, 1, done), op(deletes, 2, 3, unknown), op(makes, 4, 5, done)}, porcupine.Ok},
		"a deletion that cannot have happened": {[]operation{op(makes, 0, 1, done), op(deletes, 2, 3, undone), op(makes, 4, 5, done)}, porcupine.Illegal},
	} {
		if got := compare(c.ops); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestColoursAreTheJobsOwn: a picture is told from every other by its colour.
func TestColoursAreTheJobsOwn(t *testing.T) {
	b := NewBook()
	p := NewPerson(b, NewSession(b, "ann", "", Door{}), 1)
	seen := map[int]bool{}
	for i := range 3000 {
		j := p.NewJob([]Kind{Plain, Slow, Inverted, Scaled}[i%4])
		rgb, _ := j.wanted()
		if seen[rgb] {
			t.Fatalf("the colour %06x is given twice", rgb)
		}
		seen[rgb] = true
	}
}
