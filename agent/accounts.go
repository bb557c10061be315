package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// Files of the accounts in the state folder, both 0600.
const (
	credentialsFile = "credentials"   // NAME:PASSWORD of what we made ourselves
	appliedFile     = "accounts-seen" // the hash we last entered for each given account
)

// accounts turns what was given (environment, htpasswd file, or nothing) into
// rows of the people table. A password that was changed later, by hand, stays
// changed until the given one changes too.
type accounts struct {
	dir     string
	cfg     *Config
	propose cluster.Proposer
	tables  accountTables
	log     *slog.Logger

	mu   sync.Mutex
	made map[cluster.User]Secret // as in credentialsFile
	done error                   // why the accounts are not there, nil once they are
}

// accountTables is where accounts stand; state.Machine is one.
type accountTables interface {
	People(func(*people.Table))
	Settings() state.Settings
}

func newAccounts(cfg *Config, p cluster.Proposer, tables accountTables, log *slog.Logger) (*accounts, error) {
	a := &accounts{dir: cfg.StateDir, cfg: cfg, propose: p, tables: tables, log: log, made: map[cluster.User]Secret{}}
	a.done = cluster.Errorf(cluster.Unavailable, "the accounts are being prepared")
	if err := a.readMade(); err != nil {
		return nil, err
	}
	_, err := a.given() // what is wrong with it is said at once
	return a, err
}

// prepared is nil once everybody who was given can sign in.
func (a *accounts) prepared() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
}

// passwords are those that this node made, by name.
func (a *accounts) passwords() map[cluster.User]Secret {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.made)
}

// run enters the accounts, trying again until it worked, and then waits.
func (a *accounts) run(ctx context.Context) error {
	begin := time.Now()
	for {
		try, cancel := context.WithTimeout(ctx, enterWithin)
		err := a.enter(try)
		cancel()
		a.mu.Lock()
		a.done = err
		a.mu.Unlock()
		if err == nil {
			<-ctx.Done()
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		level := slog.LevelDebug // a node that has just started has no leader yet
		if time.Since(begin) > soon {
			level = slog.LevelWarn
		}
		a.log.Log(ctx, level, "accounts are not entered yet", "err", err)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return nil
		}
	}
}

// account is what a person shall sign in with: a password, or its hash.
type account struct {
	password Secret
	hash     string
}

// given lists the accounts of the settings; none means that they are made.
func (a *accounts) given() (map[cluster.User]account, error) {
	out := map[cluster.User]account{}
	if a.cfg.HTPasswd != "" {
		f, err := os.Open(a.cfg.HTPasswd)
		if err != nil {
			return nil, cluster.Errorf(cluster.Invalid, "the htpasswd file cannot be read: %v", err)
		}
		defer f.Close()
		rows, err := signin.ReadHtpasswd(f)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[r.Name] = account{hash: r.Hash}
		}
	}
	for name, password := range a.cfg.Participants {
		out[name] = account{password: password}
	}
	for name := range out {
		if err := checkName(name, cluster.User(a.cfg.AdminUsername)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// makeMissing completes the credentials file with passwords for names that
// have none.
func (a *accounts) makeMissing(names []cluster.User) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.made)
	for _, u := range names {
		if a.made[u] == "" {
			a.made[u] = Secret(signin.GeneratePassword())
		}
	}
	if len(a.made) == before {
		return nil
	}
	path := filepath.Join(a.dir, credentialsFile)
	a.log.Info("passwords were made", "file", path, "count", len(a.made)-before)
	return a.writeMade()
}

// unmake forgets passwords that another node was faster to set. The lock is not
// held.
func (a *accounts) unmake(names []cluster.User) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range names {
		delete(a.made, u)
	}
	return a.writeMade()
}

func (a *accounts) writeMade() error {
	var out bytes.Buffer
	out.WriteString("# Sign-in names and first passwords that comfyume-agent made. Keep this file secret.\n# A password that was changed since is not in here.\n")
	for _, u := range sortedUsers(a.made) {
		fmt.Fprintf(&out, "%s:%s\n", u, string(a.made[u]))
	}
	return writeSecret(filepath.Join(a.dir, credentialsFile), out.Bytes())
}

func (a *accounts) readMade() error {
	b, err := os.ReadFile(filepath.Join(a.dir, credentialsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if name, password, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(name, "#") {
			a.made[cluster.User(name)] = Secret(password)
		}
	}
	return nil
}

// enterWithin bounds one try; soon is how long failing is nothing to speak of.
const (
	enterWithin = 30 * time.Second
	soon        = 5 * time.Second
)

// enter proposes what the table lacks.
func (a *accounts) enter(ctx context.Context) error {
	// A table that is still being read from the log would look empty, and a
	// password that was set by hand would be overwritten by the given one: what is
	// proposed first returns when everything before it has been applied here.
	if _, err := a.propose.Propose(ctx, &state.Noop{}); err != nil {
		return fmt.Errorf("wait for the table: %w", err)
	}
	given, err := a.given()
	if err != nil {
		return err
	}
	seen, err := a.readSeen()
	if err != nil {
		return err
	}
	rows := map[cluster.User]bool{}
	a.tables.People(func(t *people.Table) {
		for _, p := range t.People() {
			rows[p.Name] = true
		}
	})
	if err := a.enterInstructor(ctx, seen); err != nil {
		return err
	}
	if len(given) == 0 {
		return a.enterMade(ctx, rows)
	}
	due, err := a.changed(ctx, given, rows, seen)
	if err != nil || len(due) == 0 {
		return err
	}
	hashes, err := a.put(ctx, due, false)
	if err != nil {
		return err
	}
	maps.Copy(seen, hashes)
	return a.writeSeen(seen)
}

// changed are the given accounts that are not in the table, or were given with
// another password since they were last entered.
func (a *accounts) changed(ctx context.Context, given map[cluster.User]account, rows map[cluster.User]bool, seen map[cluster.User]string) (map[cluster.User]account, error) {
	due := map[cluster.User]account{}
	var mu sync.Mutex // of due, while the checks run side by side
	check, ctx := errgroup.WithContext(ctx)
	check.SetLimit(runtime.NumCPU())
	for u, acc := range given {
		check.Go(func() error {
			if ctx.Err() == nil && (!rows[u] || !acc.is(seen[u])) {
				mu.Lock()
				due[u] = acc
				mu.Unlock()
			}
			return ctx.Err()
		})
	}
	return due, check.Wait()
}

// enterMade makes accounts when nobody gave any, on the first gateway of a
// workshop. A later one finds them in the table and does not know the passwords.
func (a *accounts) enterMade(ctx context.Context, rows map[cluster.User]bool) error {
	var names []cluster.User
	for i := range a.cfg.Users {
		names = append(names, cluster.User(fmt.Sprintf("%s%03d", a.cfg.UserPrefix, i+1)))
	}
	ours := a.passwords()
	if len(rows) > 0 && !slices.ContainsFunc(names, func(u cluster.User) bool { return ours[u] != "" }) {
		return nil
	}
	if err := a.makeMissing(names); err != nil {
		return err
	}
	due := map[cluster.User]account{}
	for u, p := range a.passwords() {
		if string(u) != a.cfg.AdminUsername && !rows[u] {
			due[u] = account{password: p}
		}
	}
	if len(due) == 0 {
		return nil
	}
	hashes, err := a.put(ctx, due, true)
	if err != nil && cluster.CodeOf(err) != cluster.Conflict {
		return err
	}
	var lost []cluster.User
	a.tables.People(func(t *people.Table) {
		for u, h := range hashes {
			if p, ok := t.Person(u); ok && p.Hash != h {
				lost = append(lost, u)
			}
		}
	})
	if len(lost) == 0 {
		return nil
	}
	return a.unmake(lost) // another gateway made them at the same moment
}

// enterInstructor makes the table hold the instructor's password: the given one
// when it has changed, or one that is made once for the whole workshop.
func (a *accounts) enterInstructor(ctx context.Context, seen map[cluster.User]string) error {
	name := cluster.User(a.cfg.AdminUsername)
	stands := a.tables.Settings().Instructor
	password := a.cfg.AdminPassword
	switch {
	case password != "" && stands != "" && signin.Verify(seen[name], string(password)):
		return nil
	case password == "" && stands != "":
		return nil
	case password == "":
		if err := a.makeMissing([]cluster.User{name}); err != nil {
			return err
		}
		password = a.passwords()[name]
	}
	hash, err := signin.HashPassword(string(password))
	if err != nil {
		return fmt.Errorf("the instructor's password: %w", err)
	}
	if _, err := a.propose.Propose(ctx, &state.SetInstructor{Hash: hash, IfAbsent: a.cfg.AdminPassword == ""}); err != nil {
		return fmt.Errorf("enter the instructor: %w", err)
	}
	if a.cfg.AdminPassword == "" {
		if a.tables.Settings().Instructor != hash {
			return a.unmake([]cluster.User{name})
		}
		return nil
	}
	seen[name] = hash
	return a.writeSeen(seen)
}

// is reports whether the account is the one that hash was entered for.
func (acc account) is(hash string) bool {
	if acc.hash != "" {
		return acc.hash == hash
	}
	return hash != "" && signin.Verify(hash, string(acc.password))
}

// put enters accounts in one entry and returns their hashes.
func (a *accounts) put(ctx context.Context, due map[cluster.User]account, ifAbsent bool) (map[cluster.User]string, error) {
	begin := time.Now()
	names := sortedUsers(due)
	hashes := make([]string, len(names))
	g, ctxHash := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, u := range names {
		acc := due[u]
		g.Go(func() error {
			if hashes[i] = acc.hash; acc.hash != "" {
				return nil
			}
			if err := ctxHash.Err(); err != nil {
				return err
			}
			var err error
			hashes[i], err = signin.HashPassword(string(acc.password))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("hash the passwords: %w", err)
	}
	cmds, out := make([]cluster.Command, len(names)), map[cluster.User]string{}
	for i, u := range names {
		cmds[i], out[u] = &people.Put{Name: u, Hash: hashes[i], IfAbsent: ifAbsent}, hashes[i]
	}
	if _, err := a.propose.Propose(ctx, cmds...); err != nil {
		return out, fmt.Errorf("enter the accounts: %w", err)
	}
	a.log.Info("accounts entered", "count", len(names), "took", time.Since(begin).Round(time.Millisecond))
	return out, nil
}

func (a *accounts) writeSeen(seen map[cluster.User]string) error {
	raw, err := json.Marshal(seen)
	if err != nil {
		return fmt.Errorf("note the accounts: %w", err)
	}
	return writeSecret(filepath.Join(a.dir, appliedFile), raw)
}

func (a *accounts) readSeen() (map[cluster.User]string, error) {
	seen := map[cluster.User]string{}
	b, err := os.ReadFile(filepath.Join(a.dir, appliedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the accounts entered before: %w", err)
	}
	if err := json.Unmarshal(b, &seen); err != nil {
		// Forgetting costs one more entry of the given passwords, no more.
		a.log.Warn("the note of accounts entered before is damaged; entering them again", "file", appliedFile)
		return map[cluster.User]string{}, nil
	}
	return seen, nil
}

func sortedUsers[V any](m map[cluster.User]V) []cluster.User {
	out := make([]cluster.User, 0, len(m))
	for u := range m {
		out = append(out, u)
	}
	slices.Sort(out)
	return out
}
