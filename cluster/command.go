package cluster

import (
	"context"
	"fmt"

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
	decoding = mustDec(cbor.UTF8DecodeInvalid)
	strict   = mustDec(cbor.UTF8RejectInvalid)
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
func mustDec(utf8 cbor.UTF8Mode) cbor.DecMode {
	m, err := cbor.DecOptions{MaxArrayElements: 1 << 24, MaxMapPairs: 1 << 24, UTF8: utf8}.DecMode()
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

// CheckText refuses an encoded value that holds text which is not UTF-8. Names
// come from requests, and a byte that is no character must not enter the log.
func CheckText(encoded []byte) error {
	var v any
	if err := strict.Unmarshal(encoded, &v); err != nil {
		return Errorf(Invalid, "a name or text in this request is not valid UTF-8")
	}
	return nil
}

// NewEncoder and NewDecoder stream the same encoding.
var (
	NewEncoder = encoding.NewEncoder
	NewDecoder = decoding.NewDecoder
)
