package agent

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/ui"
)

// Pass is something that lets a participant in without a password. What it says
// is shown once, to whoever asked for it.
type Pass struct {
	Schema int          `json:"schema_version"`
	Name   cluster.User `json:"name"`
	Until  time.Time    `json:"until"`
	URL    string       `json:"url,omitempty"`   // of a sign-in link
	Token  string       `json:"token,omitempty"` // of a program
}

// usualLife is how long a pass lasts when nobody says.
func usualLife(kind ui.PassKind) time.Duration {
	if kind == ui.PassToken {
		return 30 * 24 * time.Hour
	}
	return 24 * time.Hour
}

// pass makes a pass for a participant, under the actor of ctx.
func (a *Agent) pass(ctx context.Context, u cluster.User, kind ui.PassKind, life time.Duration) (Pass, error) {
	if a.sign == nil {
		return Pass{}, cluster.Errorf(cluster.Forbidden, "this node only runs jobs and lets nobody in: make the %s on a node that holds the table, see node ls", kind)
	}
	p := Pass{Schema: ui.SchemaVersion, Name: u}
	var err error
	if kind == ui.PassToken {
		p.Token, p.Until, err = a.sign.NewToken(ctx, u, life)
		return p, err
	}
	door, err := a.anyDoor()
	if err != nil {
		return Pass{}, err
	}
	text, until, err := a.sign.NewLink(ctx, u, life)
	p.URL, p.Until = door+"/login?link="+url.QueryEscape(text), until
	return p, err
}

// givePass answers POST /api/users/{name}/link and /token, with ?ttl=.
func (a *api) givePass(kind ui.PassKind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		life, err := usualLife(kind), error(nil)
		if text := r.URL.Query().Get("ttl"); text != "" {
			if life, err = time.ParseDuration(text); err != nil {
				err = cluster.Errorf(cluster.Invalid, "--ttl takes a duration such as 24h")
			}
		}
		var p Pass
		if err == nil {
			p, err = a.agent.pass(cluster.ActedBy(r.Context(), localActor(r)), cluster.User(r.PathValue("name")), kind, life)
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, http.StatusOK, p)
	}
}

// TokenList answers GET /api/users/{name}/token.
type TokenList struct {
	Schema int           `json:"schema_version"`
	Tokens []people.Pass `json:"tokens"`
}

func (a *api) tokens(w http.ResponseWriter, r *http.Request) {
	c, err := a.core()
	if err != nil {
		answerError(w, err)
		return
	}
	out := TokenList{Schema: ui.SchemaVersion, Tokens: []people.Pass{}}
	c.machine.People(func(t *people.Table) { out.Tokens = append(out.Tokens, t.Tokens(cluster.User(r.PathValue("name")))...) })
	answer(w, http.StatusOK, out)
}

// signOut ends one token of a participant, or everything they have.
func (a *api) signOut(w http.ResponseWriter, r *http.Request) {
	u, id := cluster.User(r.PathValue("name")), r.URL.Query().Get("token")
	_, err := a.core()
	if err == nil && u != a.instructor {
		if _, known := a.agent.person(u); !known {
			err = a.agent.noUser(u)
		}
	}
	if err == nil {
		err = a.propose(r, &people.EndPass{Name: u, Pass: people.Pass{ID: id, Kind: people.Token}, All: id == ""})
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}
