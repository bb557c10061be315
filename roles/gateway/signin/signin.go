// Package signin decides who is at the door: by a password, or by a pass that a
// node of the workshop signed (a browser's session, a link that works once, a
// program's token). It promises that a password is hashed once and then known
// for a while, that a flood of wrong ones costs nobody else their sign-in, that
// a pass of one gateway is good at every other, and that a person who was shut
// out or given a new password is noticed at the next request. It refuses to keep
// a password, and what it signs with never leaves the node.
//
//	signin.go turns.go memo.go   passwords: known, being hashed, limited
//	pass.go session.go           passes: written, read, checked against the table
//	password.go                  hashes
package signin

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// Config of a SignIn.
type Config struct {
	// Person looks a participant up; their hash is bcrypt, or a form that an
	// htpasswd file may hold.
	Person func(cluster.User) (people.Person, bool)
	// Instructor is the instructor's name, InstructorHash their bcrypt hash as it
	// is now; "" lets nobody in.
	Instructor     cluster.User
	InstructorHash func() string
	Logger         *slog.Logger
	Now            func() time.Time // nil: time.Now
	// Verify checks a password against a hash; nil: Verify of this package.
	// Tests count its calls.
	Verify func(hash, password string) bool
	// Opening reports whether the table may not know everybody yet, as when it is
	// still being read after a start: who is unknown then is asked to come again,
	// not turned away. Nil: it knows everybody.
	Opening func() bool

	// Key signs this node's passes. Nil: there are none.
	Key ed25519.PrivateKey
	// Keys are the public keys of the other nodes of the workshop that may sign.
	Keys func() []ed25519.PublicKey
	// People is the table in which it stands which passes count.
	People func(func(*people.Table))
	// Propose changes that.
	Propose cluster.Proposer
}

// Identity is who is signed in, and by what: see Holds.
type Identity struct {
	User       cluster.User
	Instructor bool

	hash    string // of their sign-in as it was then
	changed int64
	by      *pass // nil: by the password
}

// Holds reports whether what somebody signed in with counts still: they were not
// shut out since and have no other password, and a session, or a token, was not
// ended and has not run out. Whatever stays open for long asks it now and then.
func (s *SignIn) Holds(id Identity) bool {
	now, hash, changed := s.lookup(id.User)
	if now.User == "" || hash != id.hash || changed != id.changed {
		return false
	}
	return id.by == nil || s.cfg.Now().UnixMilli() < id.by.Until && s.listed(id.by)
}

// Bounds of the memory of verified and of wrong credentials, and of guesses.
const (
	remember  = 5 * time.Minute
	refuse    = 30 * time.Second // a wrong credential is not hashed again
	trust     = 30 * 24 * time.Hour
	reread    = time.Minute // until a pass's signature is checked again
	maxKnown  = 10_000
	pairBurst = 10              // wrong passwords from one address for one user
	pairEvery = 6 * time.Second // one more after that
	userBurst = 40              // for one user, from all addresses they never signed in from
	userEvery = 3 * time.Second
	maxWait   = 30 * time.Second // for a core to hash on
)

// SignIn checks credentials. Safe for concurrent use.
type SignIn struct {
	cfg    Config
	key    []byte // of this process: what is remembered is useless elsewhere
	flight singleflight.Group
	turns  *turns

	known  *memo[[32]byte, struct{}] // verified credentials
	wrong  *memo[[32]byte, struct{}] // refused ones
	homes  *memo[string, struct{}]   // users at addresses from which they signed in
	passes *memo[[32]byte, pass]     // whose signature was checked
	pairs  *tries                    // guesses of one user from one address
	users  *tries                    // guesses of one user from elsewhere

	hashed, refused, limited, late atomic.Uint64
}

// New returns a SignIn.
func New(cfg Config) (*SignIn, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Logger = cfg.Logger.With("component", "signin")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Verify == nil {
		cfg.Verify = Verify
	}
	s := &SignIn{
		cfg: cfg, key: make([]byte, 32), turns: newTurns(max(1, runtime.GOMAXPROCS(0)/2)),
		known: newMemo[[32]byte, struct{}](maxKnown, remember, cfg.Now), wrong: newMemo[[32]byte, struct{}](maxKnown, refuse, cfg.Now),
		homes: newMemo[string, struct{}](maxKnown, trust, cfg.Now), passes: newMemo[[32]byte, pass](maxKnown, reread, cfg.Now),
		pairs: newTries(pairBurst, pairEvery, cfg.Now), users: newTries(userBurst, userEvery, cfg.Now),
	}
	if _, err := rand.Read(s.key); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return s, nil
}

// Counts are what was done since the start.
type Counts struct {
	Hashed  uint64 // passwords that were hashed
	Refused uint64 // of them, wrong ones
	Limited uint64 // guesses that were turned away unhashed
	Late    uint64 // that waited too long for a core
}

// Counts returns them.
func (s *SignIn) Counts() Counts {
	return Counts{s.hashed.Load(), s.refused.Load(), s.limited.Load(), s.late.Load()}
}

var errUnauthorized = cluster.Errorf(cluster.Unauthorized, "Please sign in: the name or the password is missing or wrong.")

var errOpening = cluster.Errorf(cluster.Unavailable, "This door of the workshop is still opening. Try again in a moment.")

func (s *SignIn) opening() bool { return s.cfg.Opening != nil && s.cfg.Opening() }

// Basic checks an Authorization header of the Basic scheme. remote is the
// address that asks, without its port. Errors: Unauthorized, Unavailable while the
// table is not there yet, or Quota with the wait in the sentence.
func (s *SignIn) Basic(ctx context.Context, authorization, remote string) (Identity, error) {
	return s.BasicAgain(ctx, authorization, remote, "")
}

// BasicAgain is Basic in a browser that has signed in before, see PasswordAgain.
func (s *SignIn) BasicAgain(ctx context.Context, authorization, remote, before string) (Identity, error) {
	user, password, ok := parseBasic(authorization)
	if !ok {
		return Identity{}, errUnauthorized
	}
	return s.PasswordAgain(ctx, user, password, remote, before)
}

// Password checks a name and a password.
func (s *SignIn) Password(ctx context.Context, user cluster.User, password, remote string) (Identity, error) {
	return s.PasswordAgain(ctx, user, password, remote, "")
}

// PasswordAgain is Password in a browser that has signed in before: before is
// the text of that session, also when it has ended. Others who guess from the
// same address do not use up that browser's guesses.
func (s *SignIn) PasswordAgain(ctx context.Context, user cluster.User, password, remote, before string) (Identity, error) {
	id, hash, changed := s.lookup(user)
	if id.User == "" && s.opening() {
		return Identity{}, errOpening
	}
	g := guess{id: id, hash: hash, password: password, remote: remote, payer: string(user) + "\x00" + remote, credential: s.credential(user, password, hash)}
	if id.User == "" {
		g.payer = "\x00" + remote // whatever names are made up
	}
	if p, err := s.read(before); err == nil && p.Kind == people.Session && p.User == user {
		g.payer, g.home = "\x00session\x00"+p.ID, true
	} else {
		_, g.home = s.homes.get(g.payer)
	}
	id.hash, id.changed = hash, changed
	if s.knows(g) {
		return id, nil
	}
	// The same credential from many connections at once (a page loading) is
	// hashed once; without this a cold cache costs a minute of CPU. Per address:
	// one that is turned away must not answer for another.
	v, err, _ := s.flight.Do(string(g.credential[:])+g.payer, func() (any, error) {
		// Whoever came first may hang up; the others still want the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxWait)
		defer cancel()
		return s.check(ctx, g)
	})
	if err != nil {
		return Identity{}, err
	}
	if good, _ := v.(bool); !good {
		return Identity{}, errUnauthorized
	}
	return id, nil
}

// guess is one password that is to be checked.
type guess struct {
	id             Identity // nobody's, if the name is unknown
	hash, password string
	remote         string
	payer          string // whose guesses it uses up
	home           bool   // the user signed in from there before
	credential     [32]byte
}

func (s *SignIn) knows(g guess) bool {
	_, ok := s.known.get(g.credential)
	return ok && g.id.User != ""
}

// check hashes a password that is neither known nor known to be wrong. The
// guess is paid for first and given back when it was none: counting afterwards
// would let any number of parallel ones through.
func (s *SignIn) check(ctx context.Context, g guess) (bool, error) {
	if s.knows(g) {
		return true, nil
	}
	if _, wrong := s.wrong.get(g.credential); wrong {
		return false, nil
	}
	if err := s.pay(g); err != nil {
		s.limited.Add(1)
		return false, err
	}
	if err := s.turns.take(ctx, turn{known: g.home, from: g.remote, as: g.payer}); err != nil {
		s.giveBack(g)
		s.late.Add(1)
		return false, err
	}
	defer s.turns.give()
	s.hashed.Add(1)
	if good := s.cfg.Verify(g.hash, g.password); good && g.id.User != "" {
		s.giveBack(g)
		s.known.put(g.credential, struct{}{})
		s.homes.put(string(g.id.User)+"\x00"+g.remote, struct{}{})
		return true, nil
	}
	s.refused.Add(1)
	s.wrong.put(g.credential, struct{}{})
	s.cfg.Logger.Info("sign-in refused", "user", g.id.User, "address", g.remote)
	return false, nil
}

// pay takes a guess: of the user at the address, and for addresses from which
// the user never signed in, of the user altogether.
func (s *SignIn) pay(g guess) error {
	if wait := s.pairs.pay(g.payer); wait > 0 {
		return cluster.Errorf(cluster.Quota, "Too many wrong passwords. Wait %d seconds and try again.", int(wait.Seconds())+1)
	}
	if g.home || g.id.User == "" {
		return nil
	}
	if wait := s.users.pay(string(g.id.User)); wait > 0 {
		s.pairs.giveBack(g.payer)
		return cluster.Errorf(cluster.Quota, "Too many wrong passwords for this name from several places. Wait %d seconds and try again, or ask the instructor for a sign-in link.", int(wait.Seconds())+1)
	}
	return nil
}

func (s *SignIn) giveBack(g guess) {
	s.pairs.giveBack(g.payer)
	if !g.home && g.id.User != "" {
		s.users.giveBack(string(g.id.User))
	}
}

// nobodyHash is verified for unknown names, so that they cost the same time. It
// is the bcrypt hash of a random password that nobody kept.
const nobodyHash = "$2a$10$3NegpfD9kEhOH5y9RPYrbu8XT1GS/TpQQVqx.nOvhHket4uAv1x56"

// lookup finds who may sign in under a name, with the hash of their password and
// the table's time of its last change.
func (s *SignIn) lookup(user cluster.User) (Identity, string, int64) {
	if s.cfg.Instructor != "" && user == s.cfg.Instructor {
		if hash := s.cfg.InstructorHash(); hash != "" {
			return Identity{User: user, Instructor: true}, hash, 0
		}
		return Identity{}, nobodyHash, 0
	}
	if p, ok := s.cfg.Person(user); ok && !p.Disabled {
		return Identity{User: user}, p.Hash, p.Changed
	}
	return Identity{}, nobodyHash, 0
}

// credential names what was typed together with the hash it was checked
// against: a new password or a shut-out person makes it another one.
func (s *SignIn) credential(user cluster.User, password, hash string) [32]byte {
	buf := append(make([]byte, 0, 256), s.key...)
	for _, part := range []string{string(user), password, hash} {
		buf = append(binary.AppendUvarint(buf, uint64(len(part))), part...)
	}
	return sha256.Sum256(buf)
}

func parseBasic(header string) (cluster.User, string, bool) {
	scheme, rest, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") || len(rest) > 1024 {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil {
		return "", "", false
	}
	user, password, ok := strings.Cut(string(raw), ":")
	return cluster.User(user), password, ok && user != ""
}
