package files

import "github.com/ahelme/comfyume/cluster"

// The kinds of this table.
const (
	KindPutDoc      cluster.Kind = 200
	KindDeleteDoc   cluster.Kind = 201
	KindMoveDoc     cluster.Kind = 202
	KindPutSettings cluster.Kind = 203
	KindPutInput    cluster.Kind = 204
	KindPutOutputs  cluster.Kind = 205
	KindAdopt       cluster.Kind = 206
	KindExpire      cluster.Kind = 207
)

// PutDoc writes a document. With IfAbsent an existing one is a Conflict.
type PutDoc struct {
	User     cluster.User `cbor:"1,keyasint"`
	Path     string       `cbor:"2,keyasint"`
	Data     []byte       `cbor:"3,keyasint,omitempty"`
	Ref      cluster.Ref  `cbor:"4,keyasint,omitempty"`
	Size     int64        `cbor:"5,keyasint"`
	IfAbsent bool         `cbor:"6,keyasint,omitempty"`
}

// DeleteDoc removes a document. Template says that the workshop has one of
// that name, which must not reappear: the row stays, Gone. A path that is
// neither a document nor a template is NotFound.
type DeleteDoc struct {
	User     cluster.User `cbor:"1,keyasint"`
	Path     string       `cbor:"2,keyasint"`
	Template bool         `cbor:"3,keyasint,omitempty"`
}

// MoveDoc renames a document. When the source is a template the user never
// saved, Data carries its bytes and Template is set: the source becomes Gone.
type MoveDoc struct {
	User      cluster.User `cbor:"1,keyasint"`
	From      string       `cbor:"2,keyasint"`
	To        string       `cbor:"3,keyasint"`
	Overwrite bool         `cbor:"4,keyasint,omitempty"`
	Template  bool         `cbor:"5,keyasint,omitempty"`
	Data      []byte       `cbor:"6,keyasint,omitempty"`
}

// PutSettings merges settings; a nil value removes the key.
type PutSettings struct {
	User     cluster.User `cbor:"1,keyasint"`
	Settings []Setting    `cbor:"2,keyasint"`
}

// PutInput enters an uploaded file. If the name is taken by other bytes and
// Overwrite is not set, it gets ComfyUI's next free name ("a (1).png"); the
// same bytes keep the name. Answer: Place.
type PutInput struct {
	User      cluster.User `cbor:"1,keyasint"`
	Place     Place        `cbor:"2,keyasint"`
	Ref       cluster.Ref  `cbor:"3,keyasint"`
	Size      int64        `cbor:"4,keyasint"`
	Overwrite bool         `cbor:"5,keyasint,omitempty"`
}

// NewOutput is one file of an executed node, on its way into the index.
type NewOutput struct {
	Item string      `cbor:"1,keyasint"` // unique in the job: node, key and position
	Area Area        `cbor:"2,keyasint"` // Output or Temp
	Sub  string      `cbor:"3,keyasint"` // subfolder as the user's graph asked for it
	Name string      `cbor:"4,keyasint"` // the worker's name, e.g. "ComfyUI_00007_.png"
	Ref  cluster.Ref `cbor:"5,keyasint"`
	Size int64       `cbor:"6,keyasint"`
}

// PutOutputs enters outputs of a job that Lease holds (state checks it against
// the job table) and names them: a name of ComfyUI's numbered form gets the
// user's own next number, once per item, so a second attempt of the job gets
// the same names. Answer: []Place in the order of Outputs.
type PutOutputs struct {
	User    cluster.User     `cbor:"1,keyasint"`
	Prompt  string           `cbor:"2,keyasint"`
	Worker  cluster.WorkerID `cbor:"3,keyasint"`
	Epoch   uint64           `cbor:"4,keyasint"`
	Outputs []NewOutput      `cbor:"5,keyasint"`
}

// Adopt brings in media files that another table had. Places that are taken are
// left alone. Answer: []Place, those that were entered.
type Adopt struct {
	User  cluster.User `cbor:"1,keyasint"`
	Files []File       `cbor:"2,keyasint"`
}

// Expire removes a user's temporary files that were made before a time, in table
// milliseconds: previews, masks on their way, pictures of a camera. A ComfyUI
// loses them when it starts.
type Expire struct {
	User   cluster.User `cbor:"1,keyasint"`
	Before int64        `cbor:"2,keyasint"`
}

// Kind of Expire.
func (Expire) Kind() cluster.Kind { return KindExpire }

// Kind of Adopt.
func (Adopt) Kind() cluster.Kind { return KindAdopt }

// Kind of PutDoc.
func (PutDoc) Kind() cluster.Kind { return KindPutDoc }

// Kind of DeleteDoc.
func (DeleteDoc) Kind() cluster.Kind { return KindDeleteDoc }

// Kind of MoveDoc.
func (MoveDoc) Kind() cluster.Kind { return KindMoveDoc }

// Kind of PutSettings.
func (PutSettings) Kind() cluster.Kind { return KindPutSettings }

// Kind of PutInput.
func (PutInput) Kind() cluster.Kind { return KindPutInput }

// Kind of PutOutputs.
func (PutOutputs) Kind() cluster.Kind { return KindPutOutputs }
