package signin

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// How long passes last.
const (
	SessionLife = 7 * 24 * time.Hour // from the last day it was used on
	renewAfter  = 24 * time.Hour
	MaxLinkLife = 30 * 24 * time.Hour
	MaxLife     = 366 * 24 * time.Hour // of a token
)

// pass is what a signed text says. It stands on the sign-in of its user as it was
// when it was given: a new password or a person who was shut out voids it.
type pass struct {
	Kind   people.PassKind `cbor:"1,keyasint"`
	User   cluster.User    `cbor:"2,keyasint"`
	ID     string          `cbor:"3,keyasint"` // random
	Issued int64           `cbor:"4,keyasint"` // milliseconds since 1970
	Until  int64           `cbor:"5,keyasint"`
	Stands []byte          `cbor:"6,keyasint"` // on which sign-in, see standing
	Era    int64           `cbor:"7,keyasint,omitempty"`
}

// A text is base64url of: the first keyID bytes of the public key, the pass in
// CBOR, the signature over domain and both.
const (
	keyID   = 8
	domain  = "comfyume pass 1\x00"
	maxText = 1024 // of a text that is looked at, in bytes
)

// write makes a text.
func (s *SignIn) write(p pass) (string, error) {
	if s.cfg.Key == nil {
		return "", errors.New("this node has no key to sign with")
	}
	body, err := cluster.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode a pass: %w", err)
	}
	pub, _ := s.cfg.Key.Public().(ed25519.PublicKey)
	raw := append(append(make([]byte, 0, 256), pub[:keyID]...), body...)
	raw = append(raw, ed25519.Sign(s.cfg.Key, append([]byte(domain), raw...))...)
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// read checks the signature of a text and returns what it says. Nothing is
// decoded that no node of the workshop has signed.
func (s *SignIn) read(text string) (pass, error) {
	if text == "" || len(text) > maxText {
		return pass{}, errNoPass
	}
	name := sha256.Sum256([]byte(text))
	if p, ok := s.passes.get(name); ok {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < keyID+ed25519.SignatureSize {
		return pass{}, errNoPass
	}
	signed, signature := raw[:len(raw)-ed25519.SignatureSize], raw[len(raw)-ed25519.SignatureSize:]
	key, ok := s.public(signed[:keyID])
	if !ok || !ed25519.Verify(key, append([]byte(domain), signed...), signature) {
		return pass{}, errNoPass
	}
	var p pass
	if err := cluster.Unmarshal(signed[keyID:], &p); err != nil {
		return pass{}, errNoPass
	}
	s.passes.put(name, p)
	return p, nil
}

// public finds a key by its beginning: this node's own, or one that stands in
// the table.
func (s *SignIn) public(id []byte) (ed25519.PublicKey, bool) {
	if s.cfg.Key != nil {
		if pub, ok := s.cfg.Key.Public().(ed25519.PublicKey); ok && string(pub[:keyID]) == string(id) {
			return pub, true
		}
	}
	if s.cfg.Keys == nil {
		return nil, false
	}
	for _, k := range s.cfg.Keys() {
		if len(k) == ed25519.PublicKeySize && string(k[:keyID]) == string(id) {
			return k, true
		}
	}
	return nil, false
}

// valid returns who a pass of one of the kinds lets in, now. Errors: Unauthorized,
// or Unavailable while the table does not know everybody yet.
func (s *SignIn) valid(text string, kinds ...people.PassKind) (Identity, pass, error) {
	p, err := s.read(text)
	if err == nil && s.cfg.Now().UnixMilli() >= p.Until {
		err = errNoPass
	}
	if err == nil {
		err = s.counts(p, kinds)
	}
	if err != nil {
		// A key or a person that the table does not hold yet may be there in a
		// moment, and a page that is told 401 sends its person to sign in.
		if s.opening() {
			return Identity{}, pass{}, errOpening
		}
		return Identity{}, pass{}, err
	}
	id, hash, changed := s.lookup(p.User)
	id.hash, id.changed, id.by = hash, changed, &p
	return id, p, nil
}

// counts checks a pass against the table.
func (s *SignIn) counts(p pass, kinds []people.PassKind) error {
	id, hash, changed := s.lookup(p.User)
	ok := false
	for _, k := range kinds {
		ok = ok || k == p.Kind
	}
	if !ok || id.User == "" || s.cfg.People == nil || string(standing(hash, changed)) != string(p.Stands) {
		return errNoPass
	}
	if !s.listed(&p) {
		return errNoPass
	}
	return nil
}

// listed reports whether the table lets a pass count.
func (s *SignIn) listed(p *pass) (ok bool) {
	s.cfg.People(func(t *people.Table) { ok = t.Counts(p.User, p.Kind, p.ID, p.Era) })
	return ok
}

// standing names a sign-in: another password, or being shut out and let in
// again, makes it another.
func standing(hash string, changed int64) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(domain+hash+"\x00"), uint64(changed)))
	return sum[:16]
}

// give makes a pass for somebody.
func (s *SignIn) give(u cluster.User, kind people.PassKind, life time.Duration) (pass, string, error) {
	id, hash, changed := s.lookup(u)
	if id.User == "" {
		return pass{}, "", cluster.Errorf(cluster.NotFound, "there is no user %q who may sign in", u)
	}
	now := s.cfg.Now()
	p := pass{
		Kind: kind, User: u, ID: randomID(), Issued: now.UnixMilli(), Until: now.Add(life).UnixMilli(), Stands: standing(hash, changed),
	}
	if kind == people.Session && s.cfg.People != nil {
		s.cfg.People(func(t *people.Table) { p.Era = t.Era(u) })
	}
	text, err := s.write(p)
	return p, text, err
}

func (p pass) row() people.Pass { return people.Pass{ID: p.ID, Kind: p.Kind, Until: p.Until} }

func randomID() string {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		panic(fmt.Sprintf("the system has no randomness: %v", err)) // documented never to happen
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

var errNoPass = cluster.Errorf(cluster.Unauthorized, "Please sign in: your sign-in has ended or is not known here.")
