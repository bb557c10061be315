package signin

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/tg123/go-htpasswd"
	"golang.org/x/crypto/bcrypt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// maxPassword is bcrypt's own limit, maxHtpasswd that of a whole file, in bytes.
const (
	maxPassword = 72
	maxHtpasswd = 1 << 20
)

// HashPassword makes the hash that the people table keeps.
func HashPassword(password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", cluster.Errorf(cluster.Invalid, "a password has 1 to %d bytes", maxPassword)
	}
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	return string(h), nil
}

// GeneratePassword makes one of 24 letters and digits that are hard to mistake
// for each other when read from a card.
func GeneratePassword() string {
	const letters = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789-_"
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		panic(fmt.Sprintf("the system has no randomness: %v", err)) // documented never to happen
	}
	for i, b := range raw {
		raw[i] = letters[int(b)%len(letters)]
	}
	return string(raw)
}

// Verify checks a password against a hash of any form that an htpasswd file of
// the old system may hold: bcrypt, apr1, {SHA}.
func Verify(hash, password string) bool {
	if strings.HasPrefix(hash, "$2") {
		// bcrypt looks at 72 bytes only: a longer password would match a cut one.
		return len(password) <= maxPassword && bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	}
	for _, accept := range []htpasswd.PasswdParser{htpasswd.AcceptMd5, htpasswd.AcceptSha} {
		if p, err := accept(hash); err == nil && p != nil {
			return p.MatchesPassword(password)
		}
	}
	return false
}

// ReadHtpasswd reads NAME:HASH lines. A line that cannot be used is an error
// that names its number, never its content.
func ReadHtpasswd(r io.Reader) ([]people.Put, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxHtpasswd+1))
	if err != nil {
		return nil, fmt.Errorf("read the htpasswd file: %w", err)
	}
	if len(raw) > maxHtpasswd {
		return nil, cluster.Errorf(cluster.Invalid, "the htpasswd file is larger than %d bytes", maxHtpasswd)
	}
	var out []people.Put
	n := 0
	for line := range strings.Lines(string(raw)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || !cluster.User(name).Valid() || !known(hash) {
			return nil, cluster.Errorf(cluster.Invalid, "line %d of the htpasswd file is not NAME:HASH with a bcrypt, apr1 or {SHA} hash", n)
		}
		out = append(out, people.Put{Name: cluster.User(name), Hash: hash})
	}
	return out, nil
}

// known reports whether a password could ever match: a damaged hash would shut
// its owner out, and nobody would know until they came.
func known(hash string) bool {
	if rest, ok := strings.CutPrefix(hash, "{SHA}"); ok {
		sum, err := base64.StdEncoding.DecodeString(rest)
		return err == nil && len(sum) == sha1.Size
	}
	if rest, ok := strings.CutPrefix(hash, "$apr1$"); ok {
		salt, sum, ok := strings.Cut(rest, "$")
		return ok && salt != "" && len(sum) == 22
	}
	_, err := bcrypt.Cost([]byte(hash))
	return err == nil
}
