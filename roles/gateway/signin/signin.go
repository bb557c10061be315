// Package signin decides who is at the door. It promises that a password is
// hashed once and then known for a while, that a flood of wrong ones costs
// nobody else their sign-in, and that a person who was shut out or given a new
// password is noticed at the next request. It refuses to keep a password.
package signin

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
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
}

// Identity is who is signed in.
type Identity struct {
	User       cluster.User
	Instructor bool
}

// Bounds of the memory of verified and of wrong credentials.
const (
	remember   = 5 * time.Minute
	refuse     = 30 * time.Second // a wrong credential is not hashed again
	maxKnown   = 10_000
	maxTries   = 10_000
	triesBurst = 10               // wrong passwords from one address for one user
	triesEvery = 6 * time.Second  // one more after that
	maxWait    = 30 * time.Second // for a core to hash on
)

// SignIn checks credentials. Safe for concurrent use.
type SignIn struct {
	cfg    Config
	key    []byte // of this process: what is remembered is useless elsewhere
	flight singleflight.Group
	pool   chan struct{} // bounds how many cores hash at once
	// strangers bounds the unknown names in the pool: however many are tried,
	// a participant waits behind one of them.
	strangers chan struct{}

	mu    sync.Mutex
	known map[[32]byte]time.Time // verified credential -> until when
	wrong map[[32]byte]time.Time // refused credential -> until when
	tries map[string]*bucket
}

// bucket counts wrong passwords of one user from one address.
type bucket struct {
	left float64
	at   time.Time
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
		cfg: cfg, key: make([]byte, 32), pool: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		strangers: make(chan struct{}, 1),
		known:     map[[32]byte]time.Time{}, wrong: map[[32]byte]time.Time{}, tries: map[string]*bucket{},
	}
	if _, err := rand.Read(s.key); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return s, nil
}

var errUnauthorized = cluster.Errorf(cluster.Unauthorized, "Please sign in: the name or the password is missing or wrong.")

// Basic checks an Authorization header of the Basic scheme. remote is the
// address that asks, without its port. Errors: Unauthorized, or Quota with the
// wait in the sentence.
func (s *SignIn) Basic(ctx context.Context, authorization, remote string) (Identity, error) {
	user, password, ok := parseBasic(authorization)
	if !ok {
		return Identity{}, errUnauthorized
	}
	return s.Password(ctx, user, password, remote)
}

// Password checks a name and a password.
func (s *SignIn) Password(ctx context.Context, user cluster.User, password, remote string) (Identity, error) {
	id, hash := s.lookup(user)
	credential := s.credential(user, password, hash)
	if id.User != "" && s.has(s.known, credential) {
		return id, nil
	}
	// The same credential from many connections at once (a page loading) is
	// hashed once; without this a cold cache costs a minute of CPU. Per address:
	// one that is turned away must not answer for another.
	v, err, _ := s.flight.Do(string(credential[:])+remote, func() (any, error) {
		// Whoever came first may hang up; the others still want the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxWait)
		defer cancel()
		return s.check(ctx, id, hash, password, credential, remote, string(user)+"\x00"+remote)
	})
	if err != nil {
		return Identity{}, err
	}
	if good, _ := v.(bool); !good {
		return Identity{}, errUnauthorized
	}
	return id, nil
}

// check hashes a password that is neither known nor known to be wrong. The
// guess is paid for first and given back when it was none: counting afterwards
// would let any number of parallel ones through.
func (s *SignIn) check(ctx context.Context, id Identity, hash, password string, c [32]byte, remote, payer string) (bool, error) {
	if id.User != "" && s.has(s.known, c) {
		return true, nil
	}
	if s.has(s.wrong, c) {
		return false, nil
	}
	if wait := s.pay(payer); wait > 0 {
		return false, cluster.Errorf(cluster.Quota, "Too many wrong passwords. Wait %d seconds and try again.", int(wait.Seconds())+1)
	}
	lanes := []chan struct{}{s.pool}
	if id.User == "" {
		lanes = []chan struct{}{s.strangers, s.pool}
	}
	for _, lane := range lanes {
		select {
		case lane <- struct{}{}:
			defer func() { <-lane }()
		case <-ctx.Done():
			s.giveBack(payer)
			return false, cluster.Errorf(cluster.Unavailable, "The sign-in took too long. Try again.")
		}
	}
	if good := s.cfg.Verify(hash, password); good && id.User != "" {
		s.giveBack(payer)
		s.learn(s.known, c, remember)
		return true, nil
	}
	s.learn(s.wrong, c, refuse)
	s.cfg.Logger.Info("sign-in refused", "user", id.User, "address", remote)
	return false, nil
}

// nobodyHash is verified for unknown names, so that they cost the same time. It
// is the bcrypt hash of a random password that nobody kept.
const nobodyHash = "$2a$10$3NegpfD9kEhOH5y9RPYrbu8XT1GS/TpQQVqx.nOvhHket4uAv1x56"

func (s *SignIn) lookup(user cluster.User) (Identity, string) {
	if s.cfg.Instructor != "" && user == s.cfg.Instructor {
		if hash := s.cfg.InstructorHash(); hash != "" {
			return Identity{User: user, Instructor: true}, hash
		}
		return Identity{}, nobodyHash
	}
	if p, ok := s.cfg.Person(user); ok && !p.Disabled {
		return Identity{User: user}, p.Hash
	}
	return Identity{}, nobodyHash
}

// credential names what was typed together with the hash it was checked
// against: a new password or a shut-out person makes it another one.
func (s *SignIn) credential(user cluster.User, password, hash string) [32]byte {
	m := hmac.New(sha256.New, s.key)
	for _, part := range []string{string(user), password, hash} {
		fmt.Fprintf(m, "%d:%s", len(part), part)
	}
	return [32]byte(m.Sum(nil))
}

func (s *SignIn) has(in map[[32]byte]time.Time, c [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, ok := in[c]
	return ok && s.cfg.Now().Before(until)
}

func (s *SignIn) learn(in map[[32]byte]time.Time, c [32]byte, keep time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(in) >= maxKnown {
		clear(in)
	}
	in[c] = s.cfg.Now().Add(keep)
}

// refill brings a bucket up to now.
func (b *bucket) refill(now time.Time) {
	b.left = min(triesBurst, b.left+now.Sub(b.at).Seconds()/triesEvery.Seconds())
	b.at = now
}

// pay takes one guess from a bucket, or returns how long until there is one.
func (s *SignIn) pay(key string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.tries[key]
	if !ok {
		if len(s.tries) >= maxTries {
			clear(s.tries)
		}
		b = &bucket{left: triesBurst, at: s.cfg.Now()}
		s.tries[key] = b
	}
	b.refill(s.cfg.Now())
	if b.left < 1 {
		return time.Duration((1 - b.left) * float64(triesEvery))
	}
	b.left--
	return 0
}

func (s *SignIn) giveBack(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.tries[key]; ok {
		b.left = min(triesBurst, b.left+1)
	}
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
