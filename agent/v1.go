package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/comfy"
)

// V1File names one file of the predecessor's on its way in.
type V1File struct {
	User cluster.User
	Area string // V1Document, V1Input or V1Output
	Path string // in the area, with slashes
	Ref  cluster.Ref
	Size int64
	Made int64 // milliseconds since 1970
}

// Where a file of the predecessor's goes.
const (
	V1Document = "documents"
	V1Settings = "settings"
	V1Input    = string(files.Input)
	V1Output   = string(files.Output)
)

// Query is the file's name in requests.
func (f V1File) Query() url.Values {
	return url.Values{
		"user": {string(f.User)}, "area": {f.Area}, "path": {f.Path}, "sha256": {string(f.Ref)},
		"size": {strconv.FormatInt(f.Size, 10)}, "made": {strconv.FormatInt(f.Made, 10)},
	}
}

func readV1File(q url.Values) (f V1File, err error) {
	f = V1File{User: cluster.User(q.Get("user")), Area: q.Get("area"), Path: q.Get("path"), Ref: cluster.Ref(q.Get("sha256"))}
	if f.Size, err = strconv.ParseInt(q.Get("size"), 10, 64); err != nil || f.Size < 0 || !f.Ref.Valid() {
		return f, cluster.Errorf(cluster.Invalid, "a file comes with its size and its sha256")
	}
	if f.Made, err = strconv.ParseInt(q.Get("made"), 10, 64); err != nil {
		return f, cluster.Errorf(cluster.Invalid, "a file comes with the time at which it was made")
	}
	return f, nil
}

// V1Place says where a file of the predecessor's stands, or would.
type V1Place struct {
	Path    string `json:"path"`    // in its area; another than was asked for if that name is taken by something else
	Already bool   `json:"already"` // it was there before, byte for byte
}

// v1Import brings files of the predecessor's into the table.
type v1Import struct {
	core    *core
	blobs   blob.Store
	propose peer.Proposals
	// template is the workshop's workflow that people see at a path, nil if none.
	template func(path string) []byte
	mark     string // goes into the name of what finds its own taken
}

func (a *api) v1(r *http.Request) (*v1Import, error) {
	c, err := a.core()
	if err != nil {
		return nil, err
	}
	gw := a.agent.roles.gateway.Load()
	if gw == nil {
		return nil, cluster.Errorf(cluster.Forbidden, "this node keeps no files: run the import on a node with the role gateway, see node ls")
	}
	if a.agent.accounts.prepared() != nil {
		return nil, cluster.Errorf(cluster.Unavailable, "the accounts are being prepared: try again in a moment")
	}
	return &v1Import{core: c, blobs: a.agent.swarm.store(), propose: c.propose.As(localActor(r)), template: gw.Template, mark: "v1"}, nil
}

// v1File answers where a file would go (GET), or takes it (POST, with its bytes).
func (a *api) v1File(w http.ResponseWriter, r *http.Request) {
	im, err := a.v1(r)
	var f V1File
	if err == nil {
		f, err = readV1File(r.URL.Query())
	}
	var out V1Place
	switch {
	case err != nil:
	case r.Method == http.MethodPost:
		out, err = im.take(r.Context(), f, r.Body)
	default:
		out, err = im.look(f)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}

// maxV1Names is under how many names a file is tried.
const maxV1Names = 10

// otherName is the n-th name under which a file is tried.
func otherName(p, word string, n int) string {
	if n == 0 {
		return p
	}
	mark := " (" + word + ")"
	if n > 1 {
		mark = fmt.Sprintf(" (%s %d)", word, n)
	}
	dir, name := path.Split(p)
	ext := path.Ext(name)
	if ext == name { // ".name" has no other part
		ext = ""
	}
	return dir + strings.TrimSuffix(name, ext) + mark + ext
}

// look finds the place of a file: where it stands already, under whichever of its
// names, else the first name that is free. Nothing of the person's is replaced.
func (im *v1Import) look(f V1File) (V1Place, error) {
	if clean, err := files.CleanPath(f.Path); err != nil || clean != f.Path || f.Area != V1Document && f.Area != V1Input && f.Area != V1Output {
		return V1Place{}, cluster.Errorf(cluster.Invalid, "a file cannot have this name here: rename it (no backslash, no control characters, at most 255 bytes)")
	}
	if err := im.known(f.User); err != nil {
		return V1Place{}, err
	}
	free := ""
	for n := range maxV1Names {
		p := otherName(f.Path, im.mark, n)
		switch ref := im.at(f, p); {
		case ref == f.Ref:
			return V1Place{Path: p, Already: true}, nil
		case ref == "" && free == "":
			free = p
		}
	}
	if free == "" {
		return V1Place{}, cluster.Errorf(cluster.Conflict, "%d other files of %s have this name: rename it", maxV1Names, f.User)
	}
	_, err := files.CleanPath(free)
	return V1Place{Path: free}, err
}

func (im *v1Import) known(u cluster.User) (err error) {
	im.core.machine.People(func(t *people.Table) {
		if _, ok := t.Person(u); !ok {
			err = cluster.Errorf(cluster.NotFound, "there is no user %q: comfyume-agent user add %s", u, u)
		}
	})
	return err
}

// at is the digest of what a person has at a path, "" for nothing. A template
// that they neither replaced nor had before counts as nothing: it gives way to
// their own, as when they save.
func (im *v1Import) at(f V1File, p string) (ref cluster.Ref) {
	if f.Area != V1Document {
		im.core.machine.Files(func(t *files.Table) {
			have, _ := t.File(f.User, v1Place(f.Area, p))
			ref = have.Ref
		})
		return ref
	}
	var doc files.Doc
	own := false
	im.core.machine.Files(func(t *files.Table) { doc, own = t.Doc(f.User, p) })
	switch {
	case own && !doc.Gone && doc.Ref != "":
		return doc.Ref
	case own && !doc.Gone:
		return digestOf(doc.Data)
	}
	if raw := im.template(p); raw != nil && digestOf(raw) == f.Ref {
		return f.Ref
	}
	return ""
}

func digestOf(b []byte) cluster.Ref {
	sum := sha256.Sum256(b)
	return cluster.Ref(hex.EncodeToString(sum[:]))
}

func v1Place(area, p string) files.Place {
	dir, name := path.Split(p)
	return files.Place{Area: files.Area(area), Subfolder: strings.Trim(dir, "/"), Name: name}
}

// take enters a file. It can be asked for again whenever that is in doubt.
func (im *v1Import) take(ctx context.Context, f V1File, body io.Reader) (V1Place, error) {
	place, err := im.look(f)
	if err != nil || place.Already {
		return place, err
	}
	var data []byte
	if f.Area == V1Document && f.Size <= files.MaxInline {
		if data, err = io.ReadAll(io.LimitReader(body, f.Size+1)); err == nil && digestOf(data) != f.Ref {
			err = errV1Changed
		}
	} else {
		var ref cluster.Ref
		if ref, _, err = im.blobs.Put(ctx, body, f.Size); err == nil && ref != f.Ref {
			err = errV1Changed
		}
	}
	if err != nil {
		return V1Place{}, err
	}
	for range maxV1Names { // somebody may save under the name meanwhile
		if err := im.enter(ctx, f, place.Path, data); cluster.CodeOf(err) != cluster.Conflict {
			return place, err
		}
		if place, err = im.look(f); err != nil || place.Already {
			return place, err
		}
	}
	return V1Place{}, cluster.Errorf(cluster.Conflict, "%s saves under the same name all the while: try again", f.User)
}

var errV1Changed = cluster.Errorf(cluster.Invalid, "it changed while it was read: import again")

// v1Commit bounds how long one change waits for a leader.
const v1Commit = 30 * time.Second

func (im *v1Import) commit(ctx context.Context, cmd cluster.Command) (cluster.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, v1Commit)
	defer cancel()
	out, err := im.propose.Propose(ctx, cmd)
	if errors.Is(err, context.DeadlineExceeded) {
		err = cluster.Errorf(cluster.NoLeader, "no node accepts changes; see comfyume-agent status")
	}
	return out, err
}

// enter proposes the row of a file whose bytes are here. Conflict says that the
// name was taken meanwhile.
func (im *v1Import) enter(ctx context.Context, f V1File, p string, data []byte) error {
	if f.Area == V1Document {
		put := &files.PutDoc{User: f.User, Path: p, Data: data, Size: f.Size, IfAbsent: true}
		if f.Size > files.MaxInline {
			put.Ref = f.Ref
		}
		_, err := im.commit(ctx, put)
		return err
	}
	made := f.Made
	if now := time.Now().UnixMilli(); made <= 0 || made > now {
		made = now
	}
	out, err := im.commit(ctx, &files.Adopt{User: f.User, Files: []files.File{{Place: v1Place(f.Area, p), Ref: f.Ref, Size: f.Size, Created: made}}})
	if err != nil {
		return err
	}
	var entered []files.Place
	if err := out.Decode(&entered); err != nil {
		return fmt.Errorf("read what was entered: %w", err)
	}
	if len(entered) == 0 {
		return cluster.Errorf(cluster.Conflict, "the name was taken meanwhile")
	}
	return nil
}

// V1Kept answers POST /api/import/v1/settings: how many keys of a settings file
// were taken or stood there already, and which the person has otherwise here.
type V1Kept struct {
	Taken   int      `json:"taken"`
	Already int      `json:"already"`
	Kept    []string `json:"kept"`
}

// Bounds of a settings file and of the settings in one entry of the log, in bytes.
const (
	maxV1Settings = 4 << 20
	maxV1Entry    = 200 << 10
)

// v1Settings takes comfy.settings.json of a person: the keys that they have not
// set here. With dry=true it only says which.
func (a *api) v1Settings(w http.ResponseWriter, r *http.Request) {
	im, err := a.v1(r)
	var out V1Kept
	if err == nil {
		out, err = im.settings(r.Context(), cluster.User(r.URL.Query().Get("user")), http.MaxBytesReader(w, r.Body, maxV1Settings), r.URL.Query().Get("dry") == "true")
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}

func (im *v1Import) settings(ctx context.Context, u cluster.User, body io.Reader, dry bool) (V1Kept, error) {
	out := V1Kept{Kept: []string{}}
	raw, err := io.ReadAll(body)
	if err != nil {
		return out, cluster.Errorf(cluster.TooLarge, "the settings are over %d MB or broke off", maxV1Settings>>20)
	}
	fields, err := comfy.ParseObject(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")))
	if err != nil {
		return out, cluster.Errorf(cluster.Invalid, "the settings are not one JSON object: mend the file or delete it")
	}
	have := map[string][]byte{}
	im.core.machine.Files(func(t *files.Table) {
		for _, s := range t.Settings(u) {
			have[s.Key] = s.Value
		}
	})
	var fresh []files.Setting
	for _, f := range fields {
		value := compact(f.Value)
		switch old, there := have[f.Key]; {
		case !there:
			fresh = append(fresh, files.Setting{Key: f.Key, Value: value})
			have[f.Key] = value
		case bytes.Equal(compact(old), value):
			out.Already++
		default:
			out.Kept = append(out.Kept, f.Key)
		}
	}
	out.Taken = len(fresh)
	if dry {
		return out, nil
	}
	if err := im.known(u); err != nil {
		return out, err
	}
	for len(fresh) > 0 {
		n, size := 0, 0
		for n < len(fresh) && (n == 0 || size+len(fresh[n].Value) <= maxV1Entry) {
			size += len(fresh[n].Key) + len(fresh[n].Value)
			n++
		}
		if _, err := im.commit(ctx, &files.PutSettings{User: u, Settings: fresh[:n]}); err != nil {
			return out, err
		}
		fresh = fresh[n:]
	}
	return out, nil
}

// compact is a JSON value without the spaces that are not part of it.
func compact(raw []byte) []byte {
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return raw
	}
	return out.Bytes()
}

// v1Done enters into the audit what an import brought.
func (a *api) v1Done(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Files int   `json:"files"`
		Bytes int64 `json:"bytes"`
	}
	err := decode(w, r, &in)
	if err == nil {
		err = a.propose(r, &state.Acted{What: fmt.Sprintf("imported %d files (%d bytes) of the old workshop", in.Files, in.Bytes)})
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}
