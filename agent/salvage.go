package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/comfy"
)

// Left is what one history that this node left behind has and the table lacks.
type Left struct {
	consensus.Aside
	Jobs     []string `json:"jobs"`      // USER/ID (state) of jobs that are not in the table
	Docs     []string `json:"documents"` // USER/PATH of documents that are not there, or are newer
	Files    int      `json:"files"`     // inputs and outputs
	Accounts []string `json:"accounts"`  // people whose password was set there; nothing is done about it
}

// LeftBehind answers GET /api/raft/salvage.
type LeftBehind struct {
	Schema int    `json:"schema_version"`
	Left   []Left `json:"left"`
}

// leftBehind lists what the histories that this node left behind have.
func (a *api) leftBehind(w http.ResponseWriter, r *http.Request) {
	c, err := a.core()
	if err != nil {
		answerError(w, err)
		return
	}
	asides, err := c.raft.Asides()
	if err != nil {
		answerError(w, err)
		return
	}
	out := LeftBehind{Schema: 1, Left: []Left{}}
	for _, aside := range asides {
		s, err := newSalvage(r.Context(), c, aside)
		if err != nil {
			answerError(w, err)
			return
		}
		out.Left = append(out.Left, s.list())
	}
	answer(w, http.StatusOK, out)
}

// salvage brings back what a history that was left behind has.
func (a *api) salvage(w http.ResponseWriter, r *http.Request) {
	c, err := a.core()
	if err != nil {
		answerError(w, err)
		return
	}
	asides, err := c.raft.Asides()
	if err != nil {
		answerError(w, err)
		return
	}
	name := r.URL.Query().Get("name")
	i := slices.IndexFunc(asides, func(x consensus.Aside) bool { return x.Name == name })
	if i < 0 {
		answerError(w, cluster.Errorf(cluster.NotFound, "no history %q was left behind here: see raft salvage", name))
		return
	}
	s, err := newSalvage(r.Context(), c, asides[i])
	if err == nil {
		s.propose = c.propose.As(localActor(r))
		s.blobs = a.agent.swarm.store()
		err = s.bringBack(r.Context())
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, s.list())
}

// salvage compares a history that was left behind with the table.
type salvage struct {
	aside   consensus.Aside
	propose cluster.Proposer
	blobs   blob.Store

	jobs     []jobs.Job
	docs     map[cluster.User][]files.Doc
	files    map[cluster.User][]files.File
	accounts []string
}

func newSalvage(ctx context.Context, c *core, aside consensus.Aside) (*salvage, error) {
	m, err := c.raft.Salvage(ctx, aside.Name)
	if err != nil {
		return nil, err
	}
	old, ok := m.(*state.Machine)
	if !ok {
		return nil, fmt.Errorf("salvage: the history was read into a %T", m)
	}
	s := &salvage{aside: aside, docs: map[cluster.User][]files.Doc{}, files: map[cluster.User][]files.File{}}
	var known []people.Person
	old.People(func(t *people.Table) { known = t.People() })
	old.Jobs(func(t *jobs.Table) {
		t.Rows(func(j *jobs.Job) bool { s.jobs = append(s.jobs, *j); return true })
	})
	c.machine.Jobs(func(t *jobs.Table) {
		s.jobs = slices.DeleteFunc(s.jobs, func(j jobs.Job) bool { _, there := t.Job(j.ID); return there })
	})
	for _, p := range known {
		s.compareFiles(c, old, p.Name)
	}
	c.machine.People(func(t *people.Table) {
		for _, p := range known {
			if now, there := t.Person(p.Name); !there || now.Hash != p.Hash && p.Changed > now.Changed {
				s.accounts = append(s.accounts, string(p.Name))
			}
		}
	})
	return s, nil
}

// compareFiles finds a user's documents and media files that the table lacks.
func (s *salvage) compareFiles(c *core, old *state.Machine, u cluster.User) {
	old.Files(func(t *files.Table) {
		for _, d := range t.Docs(u, "") {
			if full, ok := t.Doc(u, d.Path); ok && !full.Gone {
				s.docs[u] = append(s.docs[u], full)
			}
		}
		for _, area := range []files.Area{files.Input, files.Output, files.Temp} {
			s.files[u] = append(s.files[u], t.Files(u, area)...)
		}
	})
	c.machine.Files(func(t *files.Table) {
		s.docs[u] = slices.DeleteFunc(s.docs[u], func(d files.Doc) bool {
			now, there := t.Doc(u, d.Path)
			return there && (now.Modified >= d.Modified || bytes.Equal(now.Data, d.Data) && now.Ref == d.Ref)
		})
		s.files[u] = slices.DeleteFunc(s.files[u], func(f files.File) bool {
			now, there := t.File(u, f.Place)
			return there && now.Ref == f.Ref
		})
	})
}

func (s *salvage) list() Left {
	l := Left{Aside: s.aside, Jobs: []string{}, Docs: []string{}, Accounts: append([]string{}, s.accounts...)}
	for _, j := range s.jobs {
		l.Jobs = append(l.Jobs, fmt.Sprintf("%s (%s)", j.ID, j.State))
	}
	for _, u := range sortedUsers(s.docs) {
		for _, d := range s.docs[u] {
			l.Docs = append(l.Docs, string(u)+"/"+d.Path)
		}
	}
	for _, all := range s.files {
		l.Files += len(all)
	}
	return l
}

// maxAdopted bounds the rows of one entry: with their bodies they must fit.
const maxAdopted = 64

// bringBack enters what is missing. Documents that exist in another form get a
// name of their own; files whose name is taken go to a folder of their own, and
// the history of their job says so. Doing it twice changes nothing.
func (s *salvage) bringBack(ctx context.Context) error {
	moved, err := s.bringFiles(ctx)
	if err != nil {
		return err
	}
	for u, docs := range s.docs {
		for _, d := range docs {
			if err := s.bringDoc(ctx, u, d); err != nil {
				return err
			}
		}
	}
	var batch []jobs.Job
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := s.propose.Propose(ctx, &jobs.Adopt{Rows: batch, Reason: "brought back by raft salvage"})
		batch, size = nil, 0
		return err
	}
	for _, j := range s.jobs {
		if j.History != "" && len(moved[j.ID]) > 0 {
			if j.History, err = s.renamed(ctx, &j, moved[j.ID]); err != nil {
				return err
			}
		}
		if len(batch) >= maxAdopted || size+len(j.Body) > jobs.MaxBody {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, j), size+len(j.Body)
	}
	return flush()
}

func (s *salvage) bringDoc(ctx context.Context, u cluster.User, d files.Doc) error {
	put := &files.PutDoc{User: u, Path: d.Path, Data: d.Data, Ref: d.Ref, Size: d.Size, IfAbsent: true}
	_, err := s.propose.Propose(ctx, put)
	if cluster.CodeOf(err) != cluster.Conflict {
		return err
	}
	dot := strings.LastIndex(put.Path, ".")
	if dot < strings.LastIndex(put.Path, "/") || dot < 0 {
		dot = len(put.Path)
	}
	put.Path = put.Path[:dot] + " (salvaged)" + put.Path[dot:]
	if _, err = s.propose.Propose(ctx, put); cluster.CodeOf(err) == cluster.Conflict {
		return nil // it was brought back before
	}
	return err
}

// bringFiles enters media files and returns where those of each job went that
// could not keep their place.
func (s *salvage) bringFiles(ctx context.Context) (map[jobs.ID]map[files.Place]files.Place, error) {
	moved := map[jobs.ID]map[files.Place]files.Place{}
	for u, all := range s.files {
		for part := range slices.Chunk(all, 200) {
			out, err := s.propose.Propose(ctx, &files.Adopt{User: u, Files: part})
			if err != nil {
				return nil, err
			}
			var entered []files.Place
			if err := out.Decode(&entered); err != nil {
				return nil, fmt.Errorf("read what was entered: %w", err)
			}
			var again []files.File
			for _, f := range part {
				if slices.Contains(entered, f.Place) {
					continue
				}
				id := jobs.ID{User: u, Prompt: f.Prompt}
				if moved[id] == nil {
					moved[id] = map[files.Place]files.Place{}
				}
				was := f.Place
				f.Place.Subfolder = strings.Trim("salvaged/"+f.Prompt[:min(8, len(f.Prompt))]+"/"+was.Subfolder, "/")
				moved[id][was] = f.Place
				again = append(again, f)
			}
			if len(again) > 0 {
				if _, err := s.propose.Propose(ctx, &files.Adopt{User: u, Files: again}); err != nil {
					return nil, err
				}
			}
		}
	}
	return moved, nil
}

// renamed is a job's history with the names that its files have now.
func (s *salvage) renamed(ctx context.Context, j *jobs.Job, moved map[files.Place]files.Place) (cluster.Ref, error) {
	f, err := s.blobs.Open(ctx, j.History)
	if err != nil {
		return "", fmt.Errorf("read the history of job %s: %w", j.ID, err)
	}
	defer f.Close()
	packed, err := io.ReadAll(f)
	if err != nil {
		return "", fmt.Errorf("read the history of job %s: %w", j.ID, err)
	}
	raw, err := comfy.Unpack(packed)
	if err != nil {
		return "", err
	}
	var entry comfy.HistoryEntry
	if err := json.Unmarshal(raw, &entry); err != nil {
		return "", fmt.Errorf("read the history of job %s: %w", j.ID, err)
	}
	for i, field := range entry.Outputs {
		own, err := comfy.RewriteOutputFiles(field.Value, func(_ string, _ int, item comfy.FileItem) (comfy.FileItem, error) {
			if to, ok := moved[files.Place{Area: files.Area(item.Type), Subfolder: item.Subfolder, Name: item.Filename}]; ok {
				return comfy.FileItem{Filename: to.Name, Subfolder: to.Subfolder, Type: string(to.Area)}, nil
			}
			return item, nil
		})
		if err != nil {
			return "", err
		}
		entry.Outputs[i].Value = json.RawMessage(own)
	}
	again := comfy.Pack(entry.Encode())
	ref, _, err := s.blobs.Put(ctx, bytes.NewReader(again), int64(len(again)))
	return ref, err
}
