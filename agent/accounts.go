package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	table   func(func(*people.Table))
	barrier func(context.Context) error // waits until the table is what was committed
	log     *slog.Logger

	made map[cluster.User]Secret // from credentialsFile

	mu   sync.Mutex
	done error // why the accounts are not there, nil once they are
}

func newAccounts(cfg *Config, p cluster.Proposer, table func(func(*people.Table)), barrier func(context.Context) error, log *slog.Logger) (*accounts, error) {
	a := &accounts{dir: cfg.StateDir, cfg: cfg, propose: p, table: table, barrier: barrier, log: log, made: map[cluster.User]Secret{}}
	a.done = cluster.Errorf(cluster.Unavailable, "the accounts are being prepared")
	return a, a.readMade()
}

// prepared is nil once everybody who was given can sign in.
func (a *accounts) prepared() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
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

// makeMissing completes the credentials file: the instructor without a given
// password, and participants when none are given at all.
func (a *accounts) makeMissing(participants bool) error {
	var missing []cluster.User
	want := func(u cluster.User) {
		if a.made[u] == "" {
			missing = append(missing, u)
		}
	}
	if a.cfg.AdminPassword == "" {
		want(cluster.User(a.cfg.AdminUsername))
	}
	if participants {
		for i := range a.cfg.Users {
			want(cluster.User(fmt.Sprintf("%s%03d", a.cfg.UserPrefix, i+1)))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	for _, u := range missing {
		a.made[u] = Secret(signin.GeneratePassword())
	}
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

// instructor is the name and bcrypt hash with which the instructor signs in.
func (a *accounts) instructor() (name cluster.User, hash string, err error) {
	name = cluster.User(a.cfg.AdminUsername)
	hash, err = signin.HashPassword(string(cmp.Or(a.cfg.AdminPassword, a.made[name])))
	if err != nil {
		return "", "", fmt.Errorf("the instructor's password: %w", err)
	}
	return name, hash, nil
}

// enterWithin bounds one try; soon is how long failing is nothing to speak of.
const (
	enterWithin = 30 * time.Second
	soon        = 5 * time.Second
)

// enter proposes what the table lacks, in one entry.
func (a *accounts) enter(ctx context.Context) error {
	// A table that is still being read from the log would look empty, and a
	// password that was set by hand would be overwritten by the given one.
	if err := a.barrier(ctx); err != nil {
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
	a.table(func(t *people.Table) {
		for _, p := range t.People() {
			rows[p.Name] = true
		}
	})
	due := map[cluster.User]account{}
	if len(given) == 0 {
		for u, p := range a.made {
			if string(u) != a.cfg.AdminUsername && !rows[u] {
				due[u] = account{password: p}
			}
		}
	}
	var mu sync.Mutex // of due, while the checks run side by side
	check, ctxCheck := errgroup.WithContext(ctx)
	check.SetLimit(runtime.NumCPU())
	for u, acc := range given {
		check.Go(func() error {
			if ctxCheck.Err() == nil && (!rows[u] || !acc.is(seen[u])) {
				mu.Lock()
				due[u] = acc
				mu.Unlock()
			}
			return ctxCheck.Err()
		})
	}
	if err := check.Wait(); err != nil {
		return err
	}
	if len(due) == 0 {
		return nil
	}
	return a.put(ctx, due, seen, len(given) > 0)
}

// is reports whether the account is the one that hash was entered for.
func (acc account) is(hash string) bool {
	if acc.hash != "" {
		return acc.hash == hash
	}
	return hash != "" && signin.Verify(hash, string(acc.password))
}

func (a *accounts) put(ctx context.Context, due map[cluster.User]account, seen map[cluster.User]string, given bool) error {
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
		return fmt.Errorf("hash the passwords: %w", err)
	}
	cmds := make([]cluster.Command, len(names))
	for i, u := range names {
		cmds[i] = &people.Put{Name: u, Hash: hashes[i]}
		if given {
			seen[u] = hashes[i]
		}
	}
	if _, err := a.propose.Propose(ctx, cmds...); err != nil {
		return fmt.Errorf("enter the accounts: %w", err)
	}
	a.log.Info("accounts entered", "count", len(names), "took", time.Since(begin).Round(time.Millisecond))
	if !given {
		return nil
	}
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
