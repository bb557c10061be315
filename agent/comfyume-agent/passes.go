package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type userLink struct {
	Names []string      `arg:"" optional:"" name:"name" help:"Whose."`
	All   bool          `help:"Of everybody who may sign in."`
	TTL   time.Duration `name:"ttl" default:"24h" help:"How long it may be used."`
}

// Validate asks for one of both.
func (u *userLink) Validate() error {
	if (len(u.Names) == 0) != u.All {
		return errors.New("give names, or --all")
	}
	return nil
}

// Run makes links and prints them, one a line: they are shown this once.
func (u *userLink) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	if u.All {
		var list agent.UserList
		if err := c.get(ctx, "/api/users", nil, &list); err != nil {
			return err
		}
		for _, p := range list.Users {
			if !p.Disabled {
				u.Names = append(u.Names, string(p.Name))
			}
		}
	}
	for _, name := range u.Names {
		var p agent.Pass
		if err := c.post(ctx, person(name, "link"), ttl(u.TTL), nil, &p); err != nil {
			return err
		}
		if err := told(t, g, p, "%s %s", p.Name, p.URL); err != nil {
			return err
		}
	}
	if !g.JSON {
		fmt.Fprintf(t.err, "each works once, within %s; an earlier link of the same person does not count any more\n", u.TTL)
	}
	return nil
}

type userToken struct {
	Name string        `arg:"" help:"Whose."`
	TTL  time.Duration `name:"ttl" default:"720h" help:"How long it counts."`
	List bool          `name:"ls" help:"List those that count, and make none."`
	End  string        `placeholder:"ID" help:"End the one of this id, and make none."`
}

// Run makes a token and prints it once, or lists or ends them.
func (u *userToken) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	switch {
	case u.List:
		return u.list(ctx, c, t, g)
	case u.End != "":
		if err := c.post(ctx, person(u.Name, "signout"), url.Values{"token": {u.End}}, nil, nil); err != nil {
			return err
		}
		return told(t, g, map[string]any{"schema_version": 1, "name": u.Name, "ended": u.End}, "%s of %s is ended", u.End, u.Name)
	}
	var p agent.Pass
	if err := c.post(ctx, person(u.Name, "token"), ttl(u.TTL), nil, &p); err != nil {
		return err
	}
	if err := told(t, g, p, "%s", p.Token); err != nil || g.JSON {
		return err
	}
	fmt.Fprintf(t.err, "send it as Authorization: Bearer TOKEN; it counts until %s\n", p.Until.Local().Format(time.DateTime))
	return nil
}

func (u *userToken) list(ctx context.Context, c *client, t *terminal, g *grammar) error {
	var list agent.TokenList
	if err := c.get(ctx, person(u.Name, "token"), nil, &list); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, list)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tCOUNTS UNTIL")
	for _, p := range list.Tokens {
		fmt.Fprintf(w, "%s\t%s\n", p.ID, time.UnixMilli(p.Until).Format(time.DateTime))
	}
	return w.Flush()
}

type userSignout struct {
	Name string `arg:"" help:"Whose."`
}

// Run ends everything that stands for a person's password.
func (u *userSignout) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	if err := c.post(ctx, person(u.Name, "signout"), nil, nil, nil); err != nil {
		return err
	}
	return told(t, g, map[string]any{"schema_version": 1, "name": u.Name, "signed_out": true}, "%s is signed out everywhere; the password goes on", u.Name)
}

func person(name, what string) string { return "/api/users/" + url.PathEscape(name) + "/" + what }

func ttl(d time.Duration) url.Values { return url.Values{"ttl": {d.String()}} }
