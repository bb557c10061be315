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

// linkLife is how long a link lasts when nobody says.
const linkLife = 24 * time.Hour

// signInLink makes a link that signs a participant in once, under actor.
func (a *Agent) signInLink(ctx context.Context, actor string, u cluster.User, life time.Duration) (Pass, error) {
	if a.sign == nil {
		return Pass{}, cluster.Errorf(cluster.Forbidden, "this node only runs jobs and lets nobody in: make the link on a node that holds the table, see node ls")
	}
	door, err := a.anyDoor()
	if err != nil {
		return Pass{}, err
	}
	text, until, err := a.sign.NewLink(cluster.ActedBy(ctx, actor), u, life)
	if err != nil {
		return Pass{}, err
	}
	return Pass{Schema: ui.SchemaVersion, Name: u, Until: until, URL: door + "/login?link=" + url.QueryEscape(text)}, nil
}

// life reads ?ttl=, or takes the usual.
func life(r *http.Request, usual time.Duration) (time.Duration, error) {
	text := r.URL.Query().Get("ttl")
	if text == "" {
		return usual, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, cluster.Errorf(cluster.Invalid, "--ttl takes a duration such as 24h")
	}
	return d, nil
}

func (a *api) link(w http.ResponseWriter, r *http.Request) {
	ttl, err := life(r, linkLife)
	var p Pass
	if err == nil {
		p, err = a.agent.signInLink(r.Context(), localActor(r), cluster.User(r.PathValue("name")), ttl)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, p)
}

// tokenLife is how long a token lasts when nobody says.
const tokenLife = 30 * 24 * time.Hour

func (a *api) token(w http.ResponseWriter, r *http.Request) {
	ttl, err := life(r, tokenLife)
	if err == nil {
		_, err = a.core()
	}
	p := Pass{Schema: ui.SchemaVersion, Name: cluster.User(r.PathValue("name"))}
	if err == nil {
		p.Token, p.Until, err = a.agent.sign.NewToken(cluster.ActedBy(r.Context(), localActor(r)), p.Name, ttl)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, p)
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
			err = cluster.Errorf(cluster.NotFound, "there is no user %q: see user ls", u)
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
