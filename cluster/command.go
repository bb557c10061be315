package cluster

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Kind is the number of a command in the log. Numbers are never reused:
// 1-99 state, 100s jobs, 200s files, 300s people, 400s models.
type Kind uint16

// Command is one change to the table. It is encoded as CBOR with integer keys
// and holds integers, strings and bytes only (no float, no time.Time).
type Command interface{ Kind() Kind }

// Outcome is what applying a command gave.
type Outcome struct {
	Index uint64 // of the log entry; a reader that has applied it sees the change
	Body  []byte // CBOR of the command's own answer, empty if it has none
}

// Decode reads the command's answer into v.
func (o Outcome) Decode(v any) error { return Unmarshal(o.Body, v) }

// Proposer commits commands: here if this node leads, else at the leader.
// The commands of one call stand in one entry, in order, and are applied
// together; each may be refused on its own. It returns after this node has
// applied the entry. A refusal of the last command is returned as *Error.
type Proposer interface {
	Propose(ctx context.Context, cmds ...Command) (Outcome, error)
}

type actorKey struct{}

// ActedBy marks whatever is proposed under the returned context as a person's
// doing, for the audit.
func ActedBy(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// Actor is who ActedBy named, "" = nobody: the node does it of itself.
func Actor(ctx context.Context) string { actor, _ := ctx.Value(actorKey{}).(string); return actor }

// Change tells a watcher what moved since it last asked. It carries keys only:
// the watcher reads the rows itself, so a slow one costs nothing.
type Change struct {
	Index  uint64            // everything up to here is covered
	Jobs   map[JobKey]bool   // rows of the job table
	Users  map[User]bool     // users whose files, documents or settings moved
	Tables map[string]uint64 // "people", "models", "state": index of their last change
}

// JobKey names a job in the whole workshop: (user, prompt id).
type JobKey struct {
	User   User   `json:"user" cbor:"1,keyasint"`
	Prompt string `json:"prompt_id" cbor:"2,keyasint"`
}

func (k JobKey) String() string { return fmt.Sprintf("%s/%s", k.User, k.Prompt) }

var (
	encoding = mustEnc()
	decoding = mustDec()
)

func mustEnc() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return m
}

// mustDec takes text that is not UTF-8: what stands in the log must be applied,
// and what does not belong there was refused before (see CheckText).
func mustDec() cbor.DecMode {
	m, err := cbor.DecOptions{MaxArrayElements: 1 << 24, MaxMapPairs: 1 << 24, UTF8: cbor.UTF8DecodeInvalid}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}

// Marshal is the one encoding of commands, answers and snapshots: CBOR, core
// deterministic, so that equal values are equal bytes on every machine.
func Marshal(v any) ([]byte, error) { return encoding.Marshal(v) }

// Unmarshal reads what Marshal wrote; unknown keys are ignored.
func Unmarshal(b []byte, v any) error { return decoding.Unmarshal(b, v) }

// CheckText refuses what Marshal encoded if it holds text which is not UTF-8.
// Names come from requests, and a byte that is no character must not enter the log.
func CheckText(encoded []byte) error {
	for len(encoded) > 0 {
		major, n, size := cborHead(encoded)
		if size == 0 {
			return Errorf(Invalid, "this is not an encoded value")
		}
		encoded = encoded[size:]
		if major != cborBytes && major != cborText {
			continue // the items of a list or map follow one by one
		}
		if n > uint64(len(encoded)) {
			return Errorf(Invalid, "this is not an encoded value")
		}
		if major == cborText && !utf8.Valid(encoded[:n]) {
			return Errorf(Invalid, "a name or text in this request is not valid UTF-8")
		}
		encoded = encoded[n:]
	}
	return nil
}

// Major types of CBOR (RFC 8949, section 3.1).
const (
	cborBytes = 2
	cborText  = 3
)

// cborHead reads the head of an item of definite length: its major type, its
// argument, and how many bytes that took, 0 = there is none.
func cborHead(b []byte) (major byte, argument uint64, size int) {
	major, info := b[0]>>5, b[0]&31
	if info < 24 {
		return major, uint64(info), 1
	}
	width := 1 << (info - 24)
	if info > 27 || len(b) < 1+width {
		return 0, 0, 0
	}
	for _, c := range b[1 : 1+width] {
		argument = argument<<8 | uint64(c)
	}
	return major, argument, 1 + width
}

// NewEncoder and NewDecoder stream the same encoding.
var (
	NewEncoder = encoding.NewEncoder
	NewDecoder = decoding.NewDecoder
)
