package oracle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// Verdict is what became of everything.
type Verdict struct {
	Jobs       int `json:"jobs"` // accepted
	Ops        int `json:"ops"`
	Lost       int `json:"lost"`       // accepted jobs, versions or files that are not there as promised
	Duplicated int `json:"duplicated"` // things that are there twice
	Misplaced  int `json:"misplaced"`  // things that are somebody else's
	Violations int `json:"violations"` // other broken promises
	Unknown    int `json:"unknown"`    // what could not be told
	Stale      int `json:"stale"`
	Why        []string
}

// Bad reports whether anything is not as it should be.
func (v Verdict) Bad() bool {
	return v.Lost+v.Duplicated+v.Misplaced+v.Violations+v.Unknown > 0
}

func (v *Verdict) count(n *int, format string, args ...any) {
	*n++
	v.Why = append(v.Why, fmt.Sprintf(format, args...))
}

// Judge reads everything through every door and compares it with the book.
func (b *Book) Judge(ctx context.Context, doors []Door, users map[string]string, diaries []*Diary, quarrels []*Quarrel) Verdict {
	v := Verdict{Jobs: b.Accepted()}
	t := &trial{b: b, v: &v, bytes: map[string][32]byte{}, where: map[string]string{}}
	for _, d := range doors {
		for _, user := range sorted(users) {
			t.person(ctx, d, user, users[user])
		}
		for _, diary := range diaries {
			t.diary(ctx, d, diary, users[diary.User])
		}
	}
	for _, q := range quarrels {
		wrong, unsure := q.Judge()
		for _, w := range wrong {
			v.count(&v.Violations, "%s", w)
		}
		v.Unknown += unsure
	}
	for _, w := range b.Violations() {
		v.count(&v.Violations, "%s", w)
	}
	v.Ops, v.Stale = b.Counted()
	return v
}

func sorted(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// trial is one judgement.
type trial struct {
	b     *Book
	v     *Verdict
	bytes map[string][32]byte // what a file was at the door asked first
	where map[string]string
}

// entry is one of a history, as it came.
type entry struct {
	id string
	doortest.Entry
}

// firmly asks until there is an answer that can be relied on.
func firmly(ctx context.Context, s *Session, method, path string) Answer {
	var a Answer
	for range 20 {
		if a = s.Do(ctx, method, path, nil); !a.Unsure() {
			break
		}
		if !pause(ctx, again) {
			break
		}
	}
	return a
}

// history reads a whole history; a key that comes twice comes twice here.
func history(ctx context.Context, s *Session) ([]entry, error) {
	a := firmly(ctx, s, "GET", "/history")
	if a.Code != 200 {
		return nil, errors.New(a.String())
	}
	d := json.NewDecoder(bytes.NewReader(a.Body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("the history is no object: %w", err)
	}
	var out []entry
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var e doortest.Entry
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		out = append(out, entry{fmt.Sprint(key), e})
	}
	return out, nil
}

// person judges what one door shows of one person.
func (t *trial) person(ctx context.Context, d Door, user, pass string) {
	s := NewSession(t.b, user, pass, d)
	defer s.Close()
	mine := map[string]*Job{}
	for _, j := range t.b.Jobs() {
		if j.User == user {
			mine[j.ID] = j
		}
	}
	all, err := history(ctx, s)
	if err != nil {
		for _, j := range mine {
			t.v.count(&t.v.Unknown, "%s: the history at %s cannot be read: %v", j, d.Name, err)
		}
		return
	}
	times := map[string]int{}
	named := map[string]string{} // file -> job
	for _, e := range all {
		times[e.id]++
		if times[e.id] == 2 {
			t.v.count(&t.v.Duplicated, "%s/%s stands twice in the history at %s", user, e.id, d.Name)
		}
		j := mine[e.id]
		if j == nil {
			t.stranger(d, user, e.id)
			continue
		}
		if times[e.id] == 1 {
			t.ended(ctx, d, s, j, e, named)
		}
	}
	rows, a := list(ctx, s)
	if rows == nil {
		t.v.count(&t.v.Unknown, "the list of %s: %s", user, a.String())
	}
	for _, j := range mine {
		if times[j.ID] == 0 {
			t.absent(d, j, rows)
		}
	}
	t.extras(ctx, d, s, mine, named)
}

// stranger is an entry of a job that this person did not queue.
func (t *trial) stranger(d Door, user, id string) {
	t.b.mu.Lock()
	other := t.b.byID[id]
	t.b.mu.Unlock()
	if other != nil {
		t.v.count(&t.v.Misplaced, "%s is in the history of %s at %s", other, user, d.Name)
		return
	}
	t.v.count(&t.v.Violations, "%s at %s has %s, which nobody queued", user, d.Name, id)
}

// absent is a job that is not in the history.
func (t *trial) absent(d Door, j *Job, rows []listed) {
	status := ""
	for _, r := range rows {
		if r.ID == j.ID {
			status = r.Status
		}
	}
	switch {
	case status == "pending" || status == "in_progress":
		t.v.count(&t.v.Lost, "%s is still %s at %s", j, status, d.Name)
	case !j.IsAccepted():
	case j.CancelAsked() && j.answered() != tooLate && status == "":
	default:
		t.v.count(&t.v.Lost, "%s was accepted and is not in the history at %s (listed as %q)", j, d.Name, status)
	}
}

func (j *Job) answered() verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.verdict
}

// ended judges a job that is in the history.
func (t *trial) ended(ctx context.Context, d Door, s *Session, j *Job, e entry, named map[string]string) {
	good := e.Status.Completed && e.Status.Str == "success"
	switch {
	case j.Fails():
		if good || len(e.Outputs) > 0 {
			t.v.count(&t.v.Violations, "%s at %s: it had to fail and is %s", j, d.Name, e.Told())
		}
		return
	case j.CancelAsked() && j.answered() != tooLate && !good:
		return
	case j.answered() == cancelled && good:
		t.v.count(&t.v.Violations, "%s at %s: its cancel was accepted and it is done", j, d.Name)
		return
	case !good:
		t.v.count(&t.v.Lost, "%s at %s did not succeed: %s %.300v", j, d.Name, e.Status.Str, e.Status.Messages)
		return
	}
	images := e.Outputs[saver]["images"]
	if len(images) != 1 || len(e.Outputs) != 1 {
		t.v.count(&t.v.Lost, "%s at %s has other outputs than one picture: %v", j, d.Name, e.Outputs)
		return
	}
	path := images[0].Path()
	if other := named[path]; other != "" {
		t.v.count(&t.v.Duplicated, "%s and %s at %s both gave %s", j, other, d.Name, path)
	}
	named[path] = j.ID
	t.file(ctx, d, s, j, path)
}

// file judges a picture: it is the job's, and the same at every door.
func (t *trial) file(ctx context.Context, d Door, s *Session, j *Job, path string) {
	a := firmly(ctx, s, "GET", path)
	if a.Code != 200 {
		t.v.count(&t.v.Lost, "%s: its picture %s cannot be had: %s", j, path, a.String())
		return
	}
	if err := j.Check(a.Body); err != nil {
		whose := "nobody's"
		for _, o := range t.b.Jobs() {
			if o != j && o.Check(a.Body) == nil {
				whose = "that of " + o.String()
			}
		}
		t.v.count(&t.v.Misplaced, "%s at %s: its picture %s is %s: %v", j, d.Name, path, whose, err)
	}
	key := j.User + path
	sum := sha256.Sum256(a.Body)
	if first, seen := t.bytes[key]; seen && first != sum {
		t.v.count(&t.v.Violations, "%s of %s is not the same at %s and at %s", path, j.User, t.where[key], d.Name)
	} else if !seen {
		t.bytes[key], t.where[key] = sum, d.Name
	}
}

// extras looks for pictures that no history names: each number is given once,
// and only to a job.
func (t *trial) extras(ctx context.Context, d Door, s *Session, mine map[string]*Job, named map[string]string) {
	tried, spare := map[string]int{}, map[string]int{}
	for _, j := range mine {
		tried[j.Prefix]++
		if j.CancelAsked() || !j.IsAccepted() {
			spare[j.Prefix]++ // it may have given one before it ended
		}
	}
	for prefix, n := range tried {
		sub, base := "", prefix
		if i := bytes.LastIndexByte([]byte(prefix), '/'); i >= 0 {
			sub, base = prefix[:i], prefix[i+1:]
		}
		for i := 1; i <= n+3; i++ {
			img := doortest.Image{Filename: fmt.Sprintf("%s_%05d_.png", base, i), Subfolder: sub, Type: "output"}
			if named[img.Path()] != "" {
				continue
			}
			if a := firmly(ctx, s, "HEAD", img.Path()); a.Code == 200 {
				spare[prefix]--
				if spare[prefix] < 0 {
					t.v.count(&t.v.Duplicated, "%s at %s has %s, which no job gave", s.User, d.Name, img.Path())
				}
			}
		}
	}
}

// diary judges the documents of one: each holds its newest version.
func (t *trial) diary(ctx context.Context, d Door, diary *Diary, pass string) {
	s := NewSession(t.b, diary.User, pass, d)
	defer s.Close()
	diary.mu.Lock()
	pages := slices.Clone(diary.pages)
	diary.mu.Unlock()
	for _, p := range pages {
		a := firmly(ctx, s, "GET", docPath(p.path, ""))
		switch v := version(&a); {
		case a.Unsure():
			t.v.count(&t.v.Unknown, "%s/%s at %s: %s", diary.User, p.path, d.Name, a.String())
		case v < p.acked:
			t.v.count(&t.v.Lost, "%s/%s at %s: version %d was accepted, it is %d", diary.User, p.path, d.Name, p.acked, v)
		case !p.may(v):
			t.v.count(&t.v.Violations, "%s/%s at %s: version %d (accepted %d, tried %d)", diary.User, p.path, d.Name, v, p.acked, p.tried)
		}
	}
}

// Drained waits until nobody has a job that has not ended, as every door shows
// it.
func (b *Book) Drained(ctx context.Context, doors []Door, users map[string]string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		open, what := 0, ""
		for _, d := range doors {
			for _, user := range sorted(users) {
				s := NewSession(b, user, users[user], d)
				rows, a := list(ctx, s)
				s.Close()
				if rows == nil {
					open++
					what = a.String()
				}
				for _, r := range rows {
					if !r.ended() {
						open++
						what = user + "/" + r.ID + " is " + r.Status
					}
				}
			}
		}
		if open == 0 {
			return nil
		}
		if !pause(ctx, time.Second) {
			return fmt.Errorf("after %s %d jobs have not ended, e.g. %s", within, open, what)
		}
	}
}
