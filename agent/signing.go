package agent

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// signingFile holds what this node signs sessions and sign-in links with, 0600.
// It never leaves the machine: the table has the public half only.
const signingFile = "signing-key"

// signingKey reads the key of a state folder, or makes it once. A node without
// its old one makes another: who signed in there signs in again.
func signingKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, signingFile)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	if seed, err := hex.DecodeString(strings.TrimSpace(string(b))); err == nil && len(seed) == ed25519.SeedSize {
		return ed25519.NewKeyFromSeed(seed), nil
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	return key, writeSecret(path, []byte(hex.EncodeToString(key.Seed())+"\n"))
}

// newSignIn is the sign-in of a node that holds the table: the door asks it who
// comes, and the command line and the dashboard for links.
func (a *Agent) newSignIn() (*signin.SignIn, error) {
	c := a.swarm.core
	return signin.New(signin.Config{
		Person: a.person, Instructor: cluster.User(a.cfg.AdminUsername), InstructorHash: func() string { return c.machine.Settings().Instructor }, Logger: a.cfg.Logger,
		Opening: func() bool { return a.accounts != nil && a.accounts.prepared() != nil },
		Key:     c.signing, Keys: c.keys, People: c.machine.People, Propose: c.propose,
	})
}

// keys are the public keys of the nodes that may sign: those that hold the table
// and have not left. Machines that only run jobs are rented, and sign nothing.
func (c *core) keys() (out []ed25519.PublicKey) {
	for _, n := range c.machine.Nodes() {
		if n.Core() && n.Left == 0 && len(n.Key) == ed25519.PublicKeySize {
			out = append(out, ed25519.PublicKey(n.Key))
		}
	}
	return out
}

func (a *Agent) person(u cluster.User) (p people.Person, ok bool) {
	a.swarm.core.machine.People(func(t *people.Table) { p, ok = t.Person(u) })
	return p, ok
}

// noUser says that nobody has the name, or that it is too early to say so.
func (a *Agent) noUser(u cluster.User) error {
	if a.accounts != nil && a.accounts.prepared() != nil {
		return cluster.Errorf(cluster.Unavailable, "the accounts are being prepared, and %q is not there yet: try again in a moment", u)
	}
	return cluster.Errorf(cluster.NotFound, "there is no user %q: see comfyume-agent user ls", u)
}
