package state

import (
	"fmt"
	"reflect"
	"sync"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
)

// baseLevel is the level of this release; see Level. The first release in which
// nodes share a table has level 1: everything it knows may be proposed at once.
// Level 2 brings what fair needs: a job's models and form. Level
// 3 brings bounds of disk space and the removing of files.
const baseLevel = 3

// Envelope is a command as it stands in the log.
type Envelope struct {
	Version uint8        `cbor:"1,keyasint"`
	Kind    cluster.Kind `cbor:"2,keyasint"`
	Body    []byte       `cbor:"3,keyasint"`
	ID      string       `cbor:"4,keyasint,omitempty"` // a repeated id is answered, not applied again
	Actor   string       `cbor:"5,keyasint,omitempty"` // who asked, for the audit
}

const envelopeVersion = 1

// Commands lists every command of this level, one value each.
func Commands() []cluster.Command {
	return append([]cluster.Command{
		&Noop{}, &SetLevel{}, &Checkpoint{}, &PutNode{}, &LeaveNode{}, &DrainNode{}, &SetMode{}, &SetPause{}, &SetInstructor{}, &Acted{}, &SetClass{}, &SetQuota{}, &SetBoost{}, &SetDisk{},
		&jobs.Submit{}, &jobs.Assign{}, &jobs.Started{}, &jobs.GpuDone{}, &jobs.Finish{}, &jobs.Requeue{},
		&jobs.Cancel{}, &jobs.Forget{}, &jobs.Hold{}, &jobs.Release{},
		&jobs.Front{}, &jobs.Adopt{}, &jobs.Now{}, &jobs.Preempt{},
		&files.PutDoc{}, &files.DeleteDoc{}, &files.MoveDoc{}, &files.PutSettings{}, &files.PutInput{}, &files.PutOutputs{}, &files.Adopt{}, &files.Expire{}, &files.Remove{},
		&people.Put{}, &people.Disable{}, &people.Visit{}, &people.Give{}, &people.Redeem{}, &people.EndPass{},
		&models.PutWorker{}, &models.ForgetWorker{},
	}, nextCommands()...)
}

// KindNoop is Noop's kind.
const KindNoop cluster.Kind = 1

// Noop changes nothing: committing it proves that committing works.
type Noop struct{}

// Kind of Noop.
func (Noop) Kind() cluster.Kind { return KindNoop }

// registry maps kinds to their Go types.
type registry map[cluster.Kind]reflect.Type

// known is the registry of this build.
var known = sync.OnceValue(func() registry {
	r := registry{}
	for _, c := range Commands() {
		r[c.Kind()] = reflect.TypeOf(c).Elem()
	}
	return r
})

func (r registry) decode(e Envelope) (cluster.Command, error) {
	t, ok := r[e.Kind]
	if !ok || e.Version != envelopeVersion {
		return nil, fmt.Errorf("command kind %d version %d is newer than this build", e.Kind, e.Version)
	}
	v := reflect.New(t)
	if err := cluster.Unmarshal(e.Body, v.Interface()); err != nil {
		return nil, fmt.Errorf("decode command kind %d: %w", e.Kind, err)
	}
	return v.Interface().(cluster.Command), nil
}

// Encode makes a log command. id may be empty for commands that are harmless
// when repeated; actor names who asked.
func Encode(cmd cluster.Command, id, actor string) ([]byte, error) {
	body, err := cluster.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode command kind %d: %w", cmd.Kind(), err)
	}
	if err := cluster.CheckText(body); err != nil {
		return nil, err
	}
	return cluster.Marshal(Envelope{Version: envelopeVersion, Kind: cmd.Kind(), Body: body, ID: id, Actor: actor})
}

// answer is what Apply gives for one command, encoded.
type answer struct {
	Err  *cluster.Error `cbor:"1,keyasint,omitempty"`
	Body []byte         `cbor:"2,keyasint,omitempty"`
}

// Decode reads what Encode wrote. A kind that this build does not know is Invalid.
func Decode(raw []byte) (Envelope, cluster.Command, error) {
	var env Envelope
	if err := cluster.Unmarshal(raw, &env); err != nil {
		return env, nil, cluster.Errorf(cluster.Invalid, "the command cannot be read")
	}
	cmd, err := known().decode(env)
	if err != nil {
		return env, nil, cluster.Errorf(cluster.Invalid, "%v", err)
	}
	return env, cmd, nil
}

// EncodeAnswer makes what DecodeAnswer reads of an answer's body.
func EncodeAnswer(body []byte) []byte { return mustMarshal(answer{Body: body}) }

// DecodeAnswer reads Apply's result for one command.
func DecodeAnswer(b []byte) (body []byte, err error) {
	var a answer
	if err := cluster.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	if a.Err != nil {
		return nil, a.Err
	}
	return a.Body, nil
}
