package agent

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/roles/gateway/signin"
	"github.com/ahelme/comfyume/ui"
)

// api is what the command line asks of a running agent. The site has checked
// the token before.
type api struct {
	agent      *Agent
	source     ui.Source
	maxBody    int64
	instructor cluster.User
}

func (a *Agent) api(source ui.Source) *api {
	return &api{agent: a, source: source, maxBody: a.cfg.MaxBody, instructor: cluster.User(a.cfg.AdminUsername)}
}

// core is the table of this node, or the refusal of one that has none.
func (a *api) core() (*core, error) {
	if c := a.agent.swarm.core; c != nil {
		return c, nil
	}
	return nil, cluster.Errorf(cluster.Forbidden, "this node only runs jobs and cannot steer the workshop: use a node that holds the table, see node ls")
}

func (a *api) submit(w http.ResponseWriter, r *http.Request) {
	if _, err := a.core(); err != nil {
		answerError(w, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.maxBody))
	if err != nil {
		answerError(w, cluster.Errorf(cluster.TooLarge, "the workflow is over the limit of %d bytes", a.maxBody))
		return
	}
	status, answer, err := a.agent.submit(cluster.ActedBy(r.Context(), localActor(r)), cluster.User(r.URL.Query().Get("user")), body)
	if err != nil {
		answerError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer) // a reader that went away is not our failure
}

// do is what buttons do, for the command line.
func (a *api) do(w http.ResponseWriter, r *http.Request) {
	var act ui.Action
	if err := decode(w, r, &act); err != nil {
		answerError(w, err)
		return
	}
	for i, id := range act.Jobs { // a job may be named by the beginning of its id
		j, err := a.find(id.String())
		if err != nil {
			answerError(w, err)
			return
		}
		act.Jobs[i] = j.ID
	}
	if err := a.source.Do(r.Context(), localActor(r), act); err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
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
	v := a.source.View()
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
	Schema  int           `json:"schema_version"`
	Job     ui.Job        `json:"job"`
	Epoch   uint64        `json:"epoch"`
	Client  string        `json:"client_id"`
	Past    []string      `json:"past,omitempty"`    // workers that had it before
	Orphans []jobs.Orphan `json:"orphans,omitempty"` // results that came too late
}

func (a *api) job(w http.ResponseWriter, r *http.Request) {
	v := a.source.View()
	c := a.agent.swarm.core
	if c == nil {
		j, err := seen(v, r.URL.Query().Get("id"))
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, http.StatusOK, JobReport{Schema: ui.SchemaVersion, Job: j})
		return
	}
	j, err := a.find(r.URL.Query().Get("id"))
	if err != nil {
		answerError(w, err)
		return
	}
	out := JobReport{Schema: ui.SchemaVersion, Job: row(&j), Epoch: j.Epoch, Client: j.ClientID}
	if j.State == jobs.Running {
		out.Job.Percent, out.Job.At = far(v.Workers, j.ID)
	}
	for _, p := range j.Past {
		out.Past = append(out.Past, string(p.Worker))
	}
	if r, err := seen(v, j.ID.String()); err == nil { // its place, what it waits for and how safe it is
		out.Job.Position, out.Job.Copies, out.Job.Reason = r.Position, r.Copies, r.Reason
		out.Job.Start, out.Job.Load, out.Job.Run = r.Start, r.Load, r.Run
	}
	c.machine.Jobs(func(t *jobs.Table) { out.Orphans = t.Orphans(j.ID) })
	answer(w, http.StatusOK, out)
}

// seen finds a job in a view.
func seen(v ui.View, id string) (ui.Job, error) {
	for _, j := range append(slices.Clone(v.Queue), v.Recent...) {
		if whole := string(j.User) + "/" + j.Prompt; whole == id || len(id) >= minPrefix && strings.HasPrefix(j.Prompt, id) {
			return j, nil
		}
	}
	return ui.Job{}, cluster.Errorf(cluster.NotFound, "there is no job %q among those that this node shows", id)
}

// retry queues an ended job again and answers the new one's id.
func (a *api) retry(w http.ResponseWriter, r *http.Request) {
	j, err := a.find(r.URL.Query().Get("id"))
	if err != nil {
		answerError(w, err)
		return
	}
	id, err := a.agent.retry(cluster.ActedBy(r.Context(), localActor(r)), j.ID)
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, id)
}

func (a *api) cancel(w http.ResponseWriter, r *http.Request) {
	j, err := a.find(r.URL.Query().Get("id"))
	if err == nil {
		err = a.source.Do(r.Context(), localActor(r), ui.Action{Verb: ui.CancelJob, User: j.ID.User, Prompt: j.ID.Prompt})
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
	c, err := a.core()
	if err != nil {
		return jobs.Job{}, err
	}
	user, prompt, named := strings.Cut(id, "/")
	if !named || user == "" {
		user, prompt, named = "", strings.TrimPrefix(id, "/"), false
	}
	if len(prompt) < minPrefix {
		return jobs.Job{}, cluster.Errorf(cluster.Invalid, "a job is named by its prompt id or at least the first %d signs of it", minPrefix)
	}
	var whole, begins []jobs.Job
	c.machine.Jobs(func(t *jobs.Table) {
		t.Rows(func(j *jobs.Job) bool {
			switch {
			case named && string(j.ID.User) != user:
			case j.Hidden && j.State != jobs.Cancelled:
			case j.ID.Prompt == prompt:
				whole = append(whole, *j)
			case strings.HasPrefix(j.ID.Prompt, prompt):
				begins = append(begins, *j)
			}
			return true
		})
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
	v := a.source.View()
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
	if err := a.propose(r, put); err != nil {
		answerError(w, err)
		return
	}
	if said != "" {
		u.Password = "" // the asker knows it
	}
	answer(w, http.StatusOK, u)
}

// propose commits a command for the person at the keyboard.
func (a *api) propose(r *http.Request, cmd cluster.Command) error {
	c, err := a.core()
	if err != nil {
		return err
	}
	return commit(r.Context(), c.propose.As(localActor(r)), cmd)
}

func (a *api) disable(w http.ResponseWriter, r *http.Request) {
	var how struct {
		Undo bool `json:"undo"`
	}
	if err := decode(w, r, &how); err != nil {
		answerError(w, err)
		return
	}
	if err := a.propose(r, &people.Disable{Name: cluster.User(r.PathValue("name")), Undo: how.Undo}); err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// mode chooses the queue's mode, or says what it is.
func (a *api) mode(w http.ResponseWriter, r *http.Request) {
	c, err := a.core()
	if err == nil && r.Method == http.MethodPost {
		err = a.source.Do(r.Context(), localActor(r), ui.Action{Verb: ui.SetMode, Mode: r.URL.Query().Get("mode")})
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct {
		Mode policy.Mode `json:"mode"`
	}{cmp.Or(policy.Mode(c.machine.Settings().Mode), policy.Default)})
}

// printed is what a worker's ComfyUI printed last.
func (a *api) printed(w http.ResponseWriter, r *http.Request) {
	lines, _ := strconv.Atoi(r.URL.Query().Get("lines")) // 0 is all
	p, err := a.source.Printed(r.Context(), cluster.WorkerID(r.URL.Query().Get("worker")), lines)
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, p)
}

// maxRequest bounds the small JSON bodies, in bytes.
const maxRequest = 64 << 10

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
