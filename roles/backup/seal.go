package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/ahelme/comfyume/cluster"
)

// Key opens what is secret in backups: the table, with the hashes of passwords, and
// what a machine needs to be itself again. It belongs off the machines.
type Key struct{ id *age.X25519Identity }

// NewKey makes one.
func NewKey() (Key, error) {
	id, err := age.GenerateX25519Identity()
	return Key{id}, err
}

// ParseKey reads AGE-SECRET-KEY-1..., the COMFYUME_RECOVERY_KEY of a recovery kit.
func ParseKey(text string) (Key, error) {
	id, err := age.ParseX25519Identity(strings.TrimSpace(text))
	if err != nil {
		return Key{}, cluster.Errorf(cluster.Invalid, "the recovery key cannot be read: it begins with AGE-SECRET-KEY-1 and stands in the recovery kit as COMFYUME_RECOVERY_KEY")
	}
	return Key{id}, nil
}

// Text is the key itself. It is printed once, into the kit.
func (k Key) Text() string { return k.id.String() }

// Lock is the public half, age1...
func (k Key) Lock() string {
	if k.id == nil {
		return ""
	}
	return k.id.Recipient().String()
}

// IsZero reports whether it is no key.
func (k Key) IsZero() bool { return k.id == nil }

// sealedEnd is how names of encrypted objects end.
const sealedEnd = ".age"

// seal encrypts what is written, so that only the key of the lock opens it.
func seal(to io.Writer, lock string) (io.WriteCloser, error) {
	r, err := age.ParseX25519Recipient(lock)
	if err != nil {
		return nil, cluster.Errorf(cluster.Invalid, "the backups' lock %q cannot be read: comfyume-agent backup init", lock)
	}
	w, err := age.Encrypt(to, r)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return w, nil
}

// unseal reads what seal wrote.
func unseal(from io.Reader, k Key) (io.Reader, error) {
	if k.IsZero() {
		return nil, cluster.Errorf(cluster.Forbidden, "this is encrypted: give the recovery key, COMFYUME_RECOVERY_KEY of the recovery kit (--env-file=KIT)")
	}
	r, err := age.Decrypt(from, k.id)
	var no *age.NoIdentityMatchError
	if errors.As(err, &no) {
		return nil, cluster.Errorf(cluster.Forbidden, "the recovery key is not that of these backups: take the kit that backup init printed for them")
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return r, nil
}

// sum is a sha256 that grows.
type sum struct{ hash.Hash }

func newSum() sum { return sum{sha256.New()} }

func (s sum) hex() string { return hex.EncodeToString(s.Sum(nil)) }
