package gateway

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
)

// Problem is one request of a user that was not answered as they hoped: what
// the instructor sees when somebody says that it does not work.
type Problem struct {
	At     time.Time    `json:"at"`
	User   cluster.User `json:"user"`
	Method string       `json:"method"`
	Route  string       `json:"route"` // the pattern in the table of routes, "" = none
	Path   string       `json:"path"`  // without its query
	Status int          `json:"status"`
	Text   string       `json:"text"`
	Cure   string       `json:"cure,omitempty"` // what can be done
	ID     string       `json:"id,omitempty"`   // also in the answer and in the log
}

// perUser bounds what is remembered.
const perUser = 50

type problems struct {
	mu   sync.Mutex
	user map[cluster.User][]Problem // newest last
}

func newProblems() *problems { return &problems{user: map[cluster.User][]Problem{}} }

func (p *problems) add(one Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := append(p.user[one.User], one)
	if over := len(list) - perUser; over > 0 {
		list = append([]Problem(nil), list[over:]...)
	}
	p.user[one.User] = list
}

// ProblemsOf finds problems: the last of a user, or those whose error id begins
// with id. Newest first.
func (g *Gateway) ProblemsOf(u cluster.User, id string) (out []Problem) {
	g.problems.mu.Lock()
	defer g.problems.mu.Unlock()
	for user, list := range g.problems.user {
		for _, p := range list {
			if user == u || id != "" && strings.HasPrefix(p.ID, id) {
				out = append(out, p)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return b.At.Compare(a.At) })
	return out
}

// Problems are the last refused or failed requests of every user, newest first
// for each.
func (g *Gateway) Problems() map[cluster.User][]Problem {
	g.problems.mu.Lock()
	defer g.problems.mu.Unlock()
	out := make(map[cluster.User][]Problem, len(g.problems.user))
	for u, list := range g.problems.user {
		for i := len(list) - 1; i >= 0; i-- {
			out[u] = append(out[u], list[i])
		}
	}
	return out
}

// expected are answers >= 400 that a healthy page gets at every load.
func expected(path string, status int) bool {
	if status != fasthttp.StatusNotFound {
		return status == fasthttp.StatusUnauthorized
	}
	for _, tail := range []string{"user.css", "comfy.templates.json", ".index.json", "favicon.ico", "index_logo.json", "fuse_options.json", "/userdata"} {
		if strings.HasSuffix(path, tail) {
			return true
		}
	}
	return false
}

// noted logs a request that failed and remembers it for the dashboard. Names in
// the query and bodies are the user's own business and are not kept.
func (g *Gateway) noted(ctx *fasthttp.RequestCtx) {
	status := ctx.Response.StatusCode()
	if status < 400 {
		return
	}
	path := rawPath(ctx)
	if expected(path, status) {
		return
	}
	user, _ := ctx.UserValue(userKey).(cluster.User)
	id, _ := ctx.UserValue(correlationKey).(string)
	err, _ := ctx.UserValue(problemKey).(error)
	level := slog.LevelInfo
	if status >= 500 {
		level = slog.LevelError
	}
	route, _ := ctx.UserValue(routeKey).(string)
	g.log.Log(ctx, level, "request failed", "user", user, "method", string(ctx.Method()), "path", path, "status", status, "id", id, "err", errText(err))
	if user != "" {
		g.problems.add(Problem{
			At: g.cfg.Now(), User: user, Method: string(ctx.Method()), Route: route, Path: path, Status: status,
			Text: problemText(err, status), Cure: cure(status, err), ID: id,
		})
	}
}

// errText is for the operator. A refused workflow's details name values that
// the user typed, so only its type is logged.
func errText(err error) string {
	if err == nil {
		return ""
	}
	var known *cluster.Error
	if errors.As(err, &known) || cluster.CodeOf(err).Status() >= 500 && !isPromptError(err) {
		return err.Error()
	}
	return promptErrorType(err)
}

func problemText(err error, status int) string {
	switch {
	case err == nil:
		return fasthttp.StatusMessage(status)
	case isPromptError(err):
		return promptErrorMessage(err)
	}
	return cluster.MessageOf(err)
}
