package jobs

import (
	"cmp"
	"slices"
)

// maxBlock is how many jobs stand in one block of a line.
const maxBlock = 256

// line is jobs in the order of a key, cut into blocks so that adding or removing
// one of 100,000 moves no more than a block. A job's key may not change while it
// stands in the line.
type line struct {
	key    func(*Job) key
	blocks [][]entry // none is empty
	size   int
}

// entry has the key beside the job: a search reads no rows.
type entry struct {
	key
	job *Job
}

// key is a job's place in a line. No two jobs of a line have the same.
type key struct {
	class int64
	order int64
	seq   uint64
}

// bySeq is the order in which jobs came.
func bySeq(j *Job) key { return key{seq: j.Seq} }

// byOrder is the order of the queue.
func byOrder(j *Job) key { return key{order: j.Order, seq: j.Seq} }

// byTurn is the order in which one user's jobs have their turn: those that the
// instructor put to the front, then by priority, then by place.
func byTurn(j *Job) key {
	if j.Fronted() {
		return key{-1, j.Order, j.Seq}
	}
	return key{int64(j.Priority), j.Order, j.Seq}
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.class, o.class), cmp.Compare(k.order, o.order), cmp.Compare(k.seq, o.seq))
}

// find returns where a key stands or would stand.
func (l *line) find(k key) (block, at int, found bool) {
	block, found = slices.BinarySearchFunc(l.blocks, k, func(b []entry, k key) int { return b[0].compare(k) })
	if found || block == 0 {
		return block, 0, found
	}
	block-- // the last one that does not begin after k
	at, found = slices.BinarySearchFunc(l.blocks[block], k, func(e entry, k key) int { return e.compare(k) })
	return block, at, found
}

func (l *line) add(j *Job) {
	e := entry{l.key(j), j}
	l.size++
	last := len(l.blocks) - 1
	if last < 0 || len(l.blocks[last]) == maxBlock && l.blocks[last][maxBlock-1].compare(e.key) < 0 {
		// One more at the end is the usual case: it leaves full blocks behind.
		l.blocks = append(l.blocks, []entry{e})
		return
	}
	block, at, _ := l.find(e.key)
	if b := l.blocks[block]; len(b) == maxBlock {
		half := slices.Clone(b[maxBlock/2:])
		l.blocks[block] = slices.Delete(b, maxBlock/2, maxBlock)
		l.blocks = slices.Insert(l.blocks, block+1, half)
		if at > maxBlock/2 {
			block, at = block+1, at-maxBlock/2
		}
	}
	l.blocks[block] = slices.Insert(l.blocks[block], at, e)
}

// remove takes j out if it stands in the line.
func (l *line) remove(j *Job) {
	block, at, found := l.find(l.key(j))
	if !found {
		return
	}
	l.size--
	if len(l.blocks[block]) == 1 {
		l.blocks = slices.Delete(l.blocks, block, block+1)
		return
	}
	l.blocks[block] = slices.Delete(l.blocks[block], at, at+1)
}

// first is the job at the head, nil if there is none.
func (l *line) first() *Job { return l.walk()() }

// each calls f for every job in order, until f returns false.
func (l *line) each(f func(*Job) bool) {
	for _, b := range l.blocks {
		for i := range b {
			if !f(b[i].job) {
				return
			}
		}
	}
}

// walk returns a function that gives one job after the other and nil at the end.
func (l *line) walk() func() *Job {
	block, at := 0, 0
	return func() *Job {
		if block == len(l.blocks) {
			return nil
		}
		j := l.blocks[block][at].job
		if at++; at == len(l.blocks[block]) {
			block, at = block+1, 0
		}
		return j
	}
}
