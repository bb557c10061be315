package agent

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
	"github.com/ahelme/comfyume/ui"
)

// api is what the command line asks of a running agent. The site has checked
// the token before.
type api struct {
	view       *view
	maxBody    int64
	instructor cluster.User
	// submitTo is POST /prompt of the gateway, as if user had sent body.
	submitTo func(ctx context.Context, user cluster.User, body []byte) (status int, answer []byte)
}

func (a *api) submit(w http.ResponseWriter, r *http.Request) {
	user := cluster.User(r.URL.Query().Get("user"))
	if _, err := a.person(user); err != nil {
		answerError(w, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.maxBody))
	if err != nil {
		answerError(w, cluster.Errorf(cluster.TooLarge, "the workflow is over the limit of %d bytes", a.maxBody))
		return
	}
	status, answer := a.submitTo(r.Context(), user, body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer) // a reader that went away is not our failure
}

func (a *api) person(u cluster.User) (people.Person, error) {
	var p people.Person
	var ok bool
	a.view.machine.People(func(t *people.Table) { p, ok = t.Person(u) })
	if !ok {
		return p, cluster.Errorf(cluster.NotFound, "there is no user %q: see comfyume-agent user ls", u)
	}
	return p, nil
}

// JobList answers GET /api/jobs.
type JobList struct {
	Schema int      `json:"schema_version"`
	Jobs   []ui.Job `json:"jobs"`
	More   int      `json:"more"` // open jobs beyond the list
}

// list is the open jobs, or with state= the ended ones too.
func (a *api) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	v := a.view.View()
	all := append(slices.Clone(v.Queue), v.Recent...)
	state, user := q.Get("state"), cluster.User(q.Get("user"))
	out := JobList{Schema: ui.SchemaVersion, Jobs: []ui.Job{}, More: v.More}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit <= 0 {
		limit = len(all)
	}
	for _, j := range all {
		wanted := state == "all" || state == string(j.State) || state == "" && !j.State.Ended() || state == "waiting" && j.State.Waiting()
		if wanted && (user == "" || user == j.User) && len(out.Jobs) < limit {
			out.Jobs = append(out.Jobs, j)
		}
	}
	answer(w, http.StatusOK, out)
}

// JobReport answers GET /api/job.
type JobReport struct {
	Schema int    `json:"schema_version"`
	Job    ui.Job `json:"job"`
	Epoch  uint64 `json:"epoch"`
	Client string `json:"client_id"`
}

func (a *api) job(w http.ResponseWriter, r *http.Request) {
	j, err := a.find(r.URL.Query().Get("id"))
	if err != nil {
		answerError(w, err)
		return
	}
	out := JobReport{Schema: ui.SchemaVersion, Job: row(&j), Epoch: j.Epoch, Client: j.ClientID}
	if j.State == jobs.Running {
		out.Job.Percent, out.Job.At = far(a.view.workers(), j.ID)
	}
	answer(w, http.StatusOK, out)
}

func (a *api) cancel(w http.ResponseWriter, r *http.Request) {
	j, err := a.find(r.URL.Query().Get("id"))
	if err == nil {
		actor := localActor(r)
		err = a.view.cancel(r.Context(), a.view.propose.As(actor), j.ID, actor)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, j.ID)
}

// minPrefix is the shortest beginning of a prompt id that names a job.
const minPrefix = 4

// find takes "user/prompt", a whole prompt id, or a beginning of one that only
// one job has.
func (a *api) find(id string) (jobs.Job, error) {
	user, prompt, named := strings.Cut(id, "/")
	if !named {
		user, prompt = "", id
	}
	if len(prompt) < minPrefix {
		return jobs.Job{}, cluster.Errorf(cluster.Invalid, "a job is named by its prompt id or at least the first %d signs of it", minPrefix)
	}
	var known []people.Person
	a.view.machine.People(func(t *people.Table) { known = t.People() })
	var whole, begins []jobs.Job
	a.view.machine.Jobs(func(t *jobs.Table) {
		for _, p := range known {
			if named && string(p.Name) != user {
				continue
			}
			for _, j := range append(t.Open(p.Name), t.History(p.Name)...) {
				switch {
				case j.ID.Prompt == prompt:
					whole = append(whole, j)
				case strings.HasPrefix(j.ID.Prompt, prompt):
					begins = append(begins, j)
				}
			}
		}
	})
	if len(whole) > 0 {
		begins = whole
	}
	switch len(begins) {
	case 0:
		return jobs.Job{}, cluster.Errorf(cluster.NotFound, "there is no job %q", id)
	case 1:
		return begins[0], nil
	}
	return jobs.Job{}, cluster.Errorf(cluster.Conflict, "%d jobs are called %q: give more of the id, or USER/ID", len(begins), id)
}

// UserList answers GET /api/users.
type UserList struct {
	Schema int         `json:"schema_version"`
	Users  []ui.Person `json:"users"`
}

func (a *api) users(w http.ResponseWriter, _ *http.Request) {
	v := a.view.View()
	answer(w, http.StatusOK, UserList{Schema: ui.SchemaVersion, Users: append([]ui.Person{}, v.People...)})
}

// NewUser is a person's name and password, in requests and, when the password
// was made here, in answers.
type NewUser struct {
	Name     cluster.User `json:"name"`
	Password string       `json:"password,omitempty"` // "" asks for one to be made
}

func (a *api) addUser(w http.ResponseWriter, r *http.Request) {
	var u NewUser
	if err := decode(w, r, &u); err != nil {
		answerError(w, err)
		return
	}
	if err := checkName(u.Name, a.instructor); err != nil {
		answerError(w, err)
		return
	}
	a.setPassword(w, r, u, &people.Put{Name: u.Name, IfAbsent: true})
}

func (a *api) password(w http.ResponseWriter, r *http.Request) {
	var u NewUser
	if err := decode(w, r, &u); err != nil {
		answerError(w, err)
		return
	}
	u.Name = cluster.User(r.PathValue("name"))
	a.setPassword(w, r, u, &people.Put{Name: u.Name, IfPresent: true})
}

func (a *api) setPassword(w http.ResponseWriter, r *http.Request, u NewUser, put *people.Put) {
	said := u.Password
	if said == "" {
		u.Password = signin.GeneratePassword()
	}
	hash, err := signin.HashPassword(u.Password)
	if err != nil {
		answerError(w, err)
		return
	}
	put.Hash = hash
	if _, err := a.view.propose.As(localActor(r)).Propose(r.Context(), put); err != nil {
		answerError(w, err)
		return
	}
	if said != "" {
		u.Password = "" // the asker knows it
	}
	answer(w, http.StatusOK, u)
}

func (a *api) disable(w http.ResponseWriter, r *http.Request) {
	var how struct {
		Undo bool `json:"undo"`
	}
	if err := decode(w, r, &how); err != nil {
		answerError(w, err)
		return
	}
	c := &people.Disable{Name: cluster.User(r.PathValue("name")), Undo: how.Undo}
	if _, err := a.view.propose.As(localActor(r)).Propose(r.Context(), c); err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// maxRequest bounds the small JSON bodies, in bytes.
const maxRequest = 4 << 10

func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return cluster.Errorf(cluster.Invalid, "the request cannot be read: %v", err)
	}
	return nil
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a reader that went away is not our failure
}

func answerError(w http.ResponseWriter, err error) {
	code := cluster.CodeOf(err)
	answer(w, code.Status(), cluster.Error{Code: code, Message: sentence(err)})
}
