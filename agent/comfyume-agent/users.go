package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/ahelme/comfyume/agent"
)

type userCommands struct {
	Ls      userList    `cmd:"" help:"List who may sign in."`
	Add     userAdd     `cmd:"" help:"Add people; their passwords are made and printed once."`
	Passwd  userPasswd  `cmd:"" help:"Set a password, read from standard input; an empty one is made and printed once."`
	Disable userDisable `cmd:"" help:"Shut a person out; their work stays."`
	Link    userLink    `cmd:"" help:"Make a link that signs a person in once, at any door."`
	Token   userToken   `cmd:"" help:"Make, list or end tokens with which a person's programs sign in."`
	Signout userSignout `cmd:"" help:"End a person's sign-ins everywhere: browsers, links, tokens. The password goes on."`
}

type userList struct{}

// Run lists people.
func (*userList) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var list agent.UserList
	if err := c.get(ctx, "/api/users", nil, &list); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, list)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "USER\tSTATE\tRUNNING\tWAITING\tFILES\tLAST ERROR")
	for _, p := range list.Users {
		state := "away"
		switch {
		case p.Disabled:
			state = "shut out"
		case p.Online > 0:
			state = "online"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, state, p.Running, p.Waiting, filesOf(p), orDash(p.Error))
	}
	return w.Flush()
}

type userAdd struct {
	Name   string `arg:"" optional:"" help:"Name of one person."`
	Count  int    `placeholder:"N" help:"Add so many, with the next free numbers."`
	Prefix string `default:"user" help:"What the numbered names begin with."`
}

// Validate asks for one of both.
func (u *userAdd) Validate() error {
	if (u.Name == "") == (u.Count == 0) || u.Count < 0 || u.Count > 999 {
		return errors.New("give a name, or --count of 1 to 999")
	}
	return nil
}

// Run adds people and prints their passwords.
func (u *userAdd) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	names := []agent.User{agent.User(u.Name)}
	if u.Count > 0 {
		if names, err = u.free(ctx, c); err != nil {
			return err
		}
	}
	for _, n := range names {
		var made agent.NewUser
		if err := c.post(ctx, "/api/users", nil, agent.NewUser{Name: n}, &made); err != nil {
			return err
		}
		if err := printPassword(t, g, made); err != nil {
			return err
		}
	}
	return nil
}

// free finds the next numbered names that nobody has.
func (u *userAdd) free(ctx context.Context, c *client) ([]agent.User, error) {
	var list agent.UserList
	if err := c.get(ctx, "/api/users", nil, &list); err != nil {
		return nil, err
	}
	taken := map[agent.User]bool{}
	for _, p := range list.Users {
		taken[p.Name] = true
	}
	var out []agent.User
	for i := 1; len(out) < u.Count; i++ {
		if n := agent.User(fmt.Sprintf("%s%03d", u.Prefix, i)); !taken[n] {
			out = append(out, n)
		}
	}
	return out, nil
}

func printPassword(t *terminal, g *grammar, made agent.NewUser) error {
	if g.JSON {
		return emit(t.out, made)
	}
	_, err := fmt.Fprintf(t.out, "%s:%s\n", made.Name, made.Password)
	return err
}

type userPasswd struct {
	Name string `arg:"" help:"Whose."`
}

// Run sets a password.
func (u *userPasswd) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	password, err := readPassword(t, u.Name)
	if err != nil {
		return err
	}
	var made agent.NewUser
	path := "/api/users/" + url.PathEscape(u.Name) + "/password"
	if err := c.post(ctx, path, nil, agent.NewUser{Password: password}, &made); err != nil {
		return err
	}
	if made.Password != "" {
		return printPassword(t, g, made)
	}
	if g.JSON {
		return emit(t.out, made)
	}
	fmt.Fprintf(t.err, "the password of %s is set\n", u.Name)
	return nil
}

// readPassword takes one line; a terminal is asked without echo.
func readPassword(t *terminal, name string) (string, error) {
	if f, ok := t.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(t.err, "new password of %s (empty: one is made): ", name)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(t.err)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return string(b), nil
	}
	line, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

type userDisable struct {
	Name string `arg:"" help:"Whom."`
	Undo bool   `help:"Let them in again."`
}

// Run shuts a person out or lets them in.
func (u *userDisable) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	path := "/api/users/" + url.PathEscape(u.Name) + "/disable"
	if err := c.post(ctx, path, nil, map[string]bool{"undo": u.Undo}, nil); err != nil {
		return err
	}
	word := "shut out"
	if u.Undo {
		word = "let in again"
	}
	return told(t, g, map[string]any{"name": u.Name, "disabled": !u.Undo}, "%s is %s", u.Name, word)
}
