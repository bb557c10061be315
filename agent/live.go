package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/roles/gpu/sensors"
	"github.com/ahelme/comfyume/ui"
)

// open puts in place what the door shows of this node.
func (r *roles) open(dashboard http.Handler, h *health) {
	r.dashboard.Store(&dashboard)
	r.health.Store(h)
}

// admin is the dashboard for the instructor at the door.
func (r *roles) admin(actor string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := r.dashboard.Load()
		if h == nil {
			answerError(w, errOpening)
			return
		}
		(*h).ServeHTTP(w, req.WithContext(cluster.ActedBy(req.Context(), actor)))
	})
}

// healthz is /healthz at the door.
func (r *roles) healthz() (status int, body []byte) {
	if h := r.health.Load(); h != nil {
		return h.answer()
	}
	return http.StatusServiceUnavailable, []byte(stillOpening)
}

// submit is POST /prompt, as if the user's own page had sent it.
func (r *roles) submit(ctx context.Context, user cluster.User, body []byte) (status int, answer []byte) {
	accepted, err := r.gateway.Load().Submit(ctx, user, body)
	var refused *comfy.PromptError
	switch {
	case err == nil:
		return http.StatusOK, accepted.Encode()
	case errors.As(err, &refused):
		return refused.HTTPStatus(), refused.Encode()
	}
	code := cluster.CodeOf(err)
	answer, err = json.Marshal(cluster.Error{Code: code, Message: cluster.MessageOf(err)})
	if err != nil {
		return http.StatusInternalServerError, nil
	}
	return code.Status(), answer
}

// frontendEvery is how often every file of the frontend is read again.
const frontendEvery = time.Minute

func (r *roles) verifyFrontend() (string, error) {
	at, err := r.files.Verify(frontendEvery)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, every file verified at %s", r.files.Version(), at.Format(time.TimeOnly)), nil
}

// answering counts the workers of this node whose ComfyUI can take a job.
func (r *roles) answering() (up, all int, why string) {
	for _, w := range r.workers() {
		all++
		if answers(w) {
			up++
		} else {
			why = w.Detail
		}
	}
	return up, all, why
}

// mine are this node's workers.
func (r *roles) mine() []*worker {
	if f := r.fleet.Load(); f != nil {
		return f.workers()
	}
	return nil
}

// workers is what this node's workers say of themselves.
func (r *roles) workers() []ui.Worker {
	var out []ui.Worker
	for _, w := range r.mine() {
		s := w.gpu.Status()
		row := ui.Worker{
			ID: w.id, State: string(s.Phase), Since: s.Since.UnixMilli(), ComfyUI: s.Version, Device: s.Device,
			VRAM: s.VRAMTotal, VRAMFree: s.VRAMFree, Job: s.Job, Percent: -1, At: s.NodeID, Detail: s.Problem, Load: sensors.Unknown, Heat: sensors.Unknown, Frontend: s.Frontend,
		}
		r.fleet.Load().row(w, &row)
		if s.Max > 0 {
			row.Percent = int(100 * max(0, min(1, s.Value/s.Max)))
		}
		out = append(out, row)
	}
	if f := r.fleet.Load(); f != nil && len(out) == 0 {
		out = append(out, f.absent())
	}
	return out
}

// lacksEvery is how often templates are compared with what the workers have.
const lacksEvery = 5 * time.Second

// lacks names the templates that would not run, and why: at each worker and, where
// none is left, in the whole workshop. Before a worker was seen nothing is known of
// any, and that is a problem of its own.
func (r *roles) lacks() []lack {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.compared) < lacksEvery {
		return r.lacking
	}
	g := r.gateway.Load()
	each, known := g.LackingAt()
	r.compared, r.lacking = time.Now(), lackingOf(g.Templates(), each, known)
	return r.lacking
}

// lackingOf puts into words what each of the known workers lacks, and what all of
// them together do, or each of them something else.
func lackingOf(templates []gateway.TemplateStatus, each []gateway.WorkerLacks, known int) (out []lack) {
	if known == 0 {
		return nil
	}
	at := map[string][]lack{}
	for _, l := range each {
		one := lack{Template: l.Template, What: inWords(l.Models, l.Classes), Worker: l.Worker}
		at[l.Template] = append(at[l.Template], one)
		out = append(out, one)
	}
	for _, t := range templates {
		what := inWords(t.Models, t.Classes)
		if what == "" && len(at[t.Name]) == known {
			parts := make([]string, known)
			for i, l := range at[t.Name] {
				parts[i] = fmt.Sprintf("%s has not %s", l.Worker, l.What)
			}
			what = "one GPU that has all of it: " + strings.Join(parts, "; ")
		}
		if what != "" {
			out = append(out, lack{Template: t.Name, What: what})
		}
	}
	return out
}

// maxNamed bounds the models and the nodes named of one template.
const maxNamed = 4

func inWords(lacked []gateway.Model, classes []string) string {
	models := make([]string, len(lacked))
	for i, m := range lacked {
		models[i] = m.Folder + "/" + m.Name
	}
	var parts []string
	for _, p := range []struct {
		kind string
		all  []string
	}{{"models", models}, {"nodes", classes}} {
		switch over := len(p.all) - maxNamed; {
		case len(p.all) == 0:
		case over > 0:
			parts = append(parts, fmt.Sprintf("%s %s and %d more", p.kind, strings.Join(p.all[:maxNamed], ", "), over))
		default:
			parts = append(parts, p.kind+" "+strings.Join(p.all, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// troubles are the newest refused requests of each person: what the instructor
// sees when somebody says that it does not work.
func (r *roles) troubles() map[cluster.User]gateway.Problem {
	out := map[cluster.User]gateway.Problem{}
	for u, list := range r.gateway.Load().Problems() {
		if u != "" && len(list) > 0 {
			out[u] = list[0]
		}
	}
	return out
}
