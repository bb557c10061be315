package oracle

import (
	"fmt"
	"math"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// outcome of a change, as its client knows it.
type outcome int

const (
	unknown outcome = iota // it may have been made, or be made at any later time
	done
	refused // it could not: the document was there, or was not
	undone  // it was not made, and will not be
)

func (o outcome) String() string { return []string{"unknown", "done", "refused", "undone"}[o] }

// operation is one change that a browser asked for.
type operation struct {
	path         string
	making       bool // else deleting
	began, ended time.Time
	outcome      outcome
}

// document is what one document may do: it is there (true) or not, made only
// when it is not, deleted only when it is.
var document = porcupine.Model{
	Init: func() any { return false },
	Step: func(state, input, output any) (bool, any) {
		there, making := state.(bool), input.(bool)
		switch output.(outcome) {
		case done:
			return there != making, making
		case refused:
			return there == making, there
		case undone:
			return true, there
		}
		return true, making
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		what := "delete"
		if input.(bool) {
			what = "make"
		}
		return fmt.Sprintf("%s %v", what, output)
	},
}

// patience of one comparison.
const compareWithin = 20 * time.Second

// Judge compares what happened to each document with what is possible. unsure
// are documents for which that could not be worked out.
func (q *Quarrel) Judge() (wrong []string, unsure int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	byPath := map[string][]operation{}
	for _, op := range q.ops {
		byPath[op.path] = append(byPath[op.path], op)
	}
	paths := make([]string, 0, len(byPath))
	for p := range byPath {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		switch compare(byPath[p]) {
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("%s/%s: the answers contradict each other: %s", q.User, p, tell(byPath[p])))
		case porcupine.Unknown:
			unsure++
		case porcupine.Ok:
		}
	}
	return wrong, unsure
}

func compare(ops []operation) porcupine.CheckResult {
	var history []porcupine.Operation
	for i, op := range ops {
		end := op.ended.UnixNano()
		if op.outcome == unknown {
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{ClientId: i, Input: op.making, Call: op.began.UnixNano(), Output: op.outcome, Return: end})
	}
	return porcupine.CheckOperationsTimeout(document, history, compareWithin)
}

// tell writes operations for people.
func tell(ops []operation) string {
	sort.Slice(ops, func(i, j int) bool { return ops[i].began.Before(ops[j].began) })
	out := ""
	for _, op := range ops {
		what := "delete"
		if op.making {
			what = "make"
		}
		out += fmt.Sprintf("\n    %s..%s %s %s", op.began.Format("05.000"), op.ended.Format("05.000"), what, op.outcome)
	}
	return out
}
