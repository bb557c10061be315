package gpu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// errNoSecrets says that the job needs its user's tokens and nobody has them.
var errNoSecrets = errors.New("the user's tokens are gone")

// prepare brings everything to ComfyUI that the job needs and makes the body of
// its prompt.
func (a *attempt) prepare(ctx context.Context) (json.RawMessage, error) {
	a.undo = newUndo(a.id)
	req, err := comfy.UnpackRequest(a.row.Body)
	if err != nil {
		return nil, unusable(err)
	}
	a.req = req
	if a.graph, err = comfy.ParseGraph(req.Prompt); err != nil {
		return nil, unusable(err)
	}
	send := *req
	if a.row.Secrets != "" {
		found := false
		err := a.w.insist(ctx, func(ctx context.Context) (err error) {
			send.Secrets, found, err = a.w.cfg.Secrets(ctx, a.lease)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case !found:
			return nil, errNoSecrets
		}
	}
	if err := a.stage(ctx); err != nil {
		return nil, err
	}
	if err := a.localNames(); err != nil {
		return nil, unusable(err)
	}
	a.prefix()
	send.Prompt, send.PromptID, send.ClientID = a.graph.Bytes(), a.id, a.w.clientID()
	send.Number, send.Front = nil, false
	body, err := send.Encode()
	if err != nil {
		return nil, unusable(err)
	}
	return body, nil
}

// unusable is a job that no worker can run.
func unusable(err error) error {
	return &refusal{jobs.Failure{Type: "invalid_prompt", Message: "This workflow cannot be run: " + err.Error()}}
}

// stage uploads the inputs and puts their names there into the graph.
func (a *attempt) stage(ctx context.Context) error {
	wanted := make(map[string]jobs.Input, len(a.row.Inputs))
	for _, in := range a.row.Inputs {
		wanted[in.Value] = in
	}
	return a.graph.Strings(func(n *comfy.Node, input, value string) (string, error) {
		folder := inputFolder(a.row.ID.User, n.ClassType, input)
		var now string
		var err error
		if in, ok := wanted[value]; ok {
			now, err = a.bringThere(ctx, in, folder, string(in.Ref[:min(16, len(in.Ref))])+"-"+safeName(in.Name))
		} else if comfy.ReadsFolder(n.ClassType, input) {
			now, err = a.bringSet(ctx, value, folder)
		} else {
			return value, nil
		}
		if err != nil {
			return "", err
		}
		a.undo.input(now, value)
		return now, nil
	})
}

// inFolder are the inputs that lie in a folder or below it.
func inFolder(all []jobs.Input, folder string) (out []jobs.Input) {
	for _, in := range all {
		if strings.HasPrefix(in.Value, folder+"/") {
			out = append(out, in)
		}
	}
	return out
}

// bringSet uploads the files of a folder into one that is named after all that
// is in it: a set that changed is another one, and nothing of an older one is
// read with it. In it they keep their names, by which pictures find their texts.
func (a *attempt) bringSet(ctx context.Context, folder, base string) (string, error) {
	set := inFolder(a.row.Inputs, folder)
	if len(set) == 0 { // any other folder there is another user's, or everybody's
		return "", &refusal{jobs.Failure{Type: "input_missing", Message: fmt.Sprintf("The folder %q is none of your inputs, or is empty. Upload its files first.", folder)}}
	}
	h := sha256.New()
	for _, in := range set {
		fmt.Fprintf(h, "%q %s\n", in.Value, in.Ref)
	}
	there := base + "/set-" + hex.EncodeToString(h.Sum(nil)[:8])
	for _, in := range set {
		sub := path.Join(there, path.Dir(strings.TrimPrefix(in.Value, folder+"/")))
		got, err := a.bringThere(ctx, in, sub, in.Name)
		if err != nil {
			return "", err
		}
		if want := path.Join(sub, in.Name); got != want {
			return "", &refusal{jobs.Failure{Type: "input_refused", Message: fmt.Sprintf("ComfyUI took %q of the folder %q under another name, by which its nodes do not find it. Give it a plain name.", in.Name, folder)}}
		}
	}
	return there, nil
}

// ownFolder is where a user's files lie at a ComfyUI that others use as well.
func ownFolder(u cluster.User) string {
	sum := sha256.Sum256([]byte(u))
	return "gw/" + hex.EncodeToString(sum[:8])
}

// inputFolder is where a class looks for its files. Nearly all find them in any
// folder; a few only offer what lies in one.
func inputFolder(u cluster.User, class, input string) string {
	own := ownFolder(u)
	switch {
	case strings.HasPrefix(class, "Load3D") && input == "model_file":
		return "3d/" + own
	case class == "OpenAIInputFiles", class == "GeminiInputFiles":
		return ""
	}
	return own
}

// bringThere uploads one file under a name, with patience for a ComfyUI that is
// away, and returns how the graph has to name it.
func (a *attempt) bringThere(ctx context.Context, in jobs.Input, folder, name string) (string, error) {
	patience := time.Now().Add(a.w.cfg.Patience.Lost)
	pause := a.w.backoff()
	for {
		value, err := a.upload(ctx, in, folder, name)
		if err == nil {
			return value, nil
		}
		var status *comfy.StatusError
		switch code := cluster.CodeOf(err); {
		case context.Cause(ctx) != nil:
			return "", context.Cause(ctx)
		case a.stopping():
			return "", errStopped
		case code == cluster.NotFound:
			return "", &refusal{jobs.Failure{Type: "input_missing", Message: fmt.Sprintf("The input file %q is not stored any more. Upload it again.", in.Name)}}
		case errors.As(err, &status) && status.Status < 500:
			return "", &refusal{jobs.Failure{Type: "input_refused", Message: fmt.Sprintf("ComfyUI did not take the input file %q (answer %d). It may be too large.", in.Name, status.Status)}}
		case time.Now().After(patience):
			a.w.log.Warn("staging an input", "user", a.row.ID.User, "job", a.row.ID.Prompt, "err", err)
			reason := "ComfyUI did not take its input files"
			if code == cluster.Unavailable { // it may come back: the third try fails
				reason = fmt.Sprintf("its input file %q is on a machine that does not answer", in.Name)
			}
			return "", &givenUp{strike: true, reason: reason}
		}
		pause.wait(ctx)
	}
}

// upload brings a file there unless this connection has done so before.
func (a *attempt) upload(ctx context.Context, in jobs.Input, folder, name string) (string, error) {
	done := a.link.uploaded
	key := folder + "/" + name
	if value, ok := done[key]; ok {
		return value, nil
	}
	if err := a.w.cfg.Depot.Fetch(ctx, a.lease, in.Ref); err != nil {
		return "", fmt.Errorf("fetch an input: %w", err)
	}
	file, err := a.w.cfg.Blobs.Open(ctx, in.Ref)
	if err != nil {
		return "", err
	}
	defer file.Close()
	ctx, moving, end := whileMoving(ctx)
	defer end()
	got, err := a.w.client.Upload(ctx, comfy.Upload{Name: name, Subfolder: folder, Type: "input", Overwrite: true}, moving(file))
	if err != nil {
		return "", fmt.Errorf("upload an input: %w", err)
	}
	// The name is ComfyUI's word: it can be another than was asked for.
	value := path.Join(strings.ReplaceAll(got.Subfolder, `\`, "/"), got.Filename)
	if done != nil { // nil while the connection is being made anew: then all is brought once more
		done[key] = value
	}
	return value, nil
}

// longestStill is how long a transfer may stand still: Python can be busy for
// tens of seconds.
const longestStill = 2 * time.Minute

// whileMoving ends a transfer when nothing has moved for too long. There is no
// limit on the whole: files may be large.
func whileMoving(ctx context.Context) (_ context.Context, moving func(io.Reader) io.Reader, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(longestStill, func() { cancel(errors.New("the transfer stands still")) })
	moving = func(r io.Reader) io.Reader {
		return readerFunc(func(p []byte) (int, error) {
			n, err := r.Read(p)
			if n > 0 {
				timer.Reset(longestStill)
			}
			return n, err
		})
	}
	return ctx, moving, func() { timer.Stop(); cancel(nil) }
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// safeName keeps what every file system takes; the digest before it keeps names
// apart.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, name)
	if len(name) > 80 {
		ext := path.Ext(name)
		ext = ext[max(0, len(ext)-10):]
		name = name[:80-len(ext)] + ext
	}
	return name
}

// localNames gives models the names that a ComfyUI on Windows has for them.
func (a *attempt) localNames() error {
	if len(a.windows) == 0 {
		return nil
	}
	return a.graph.Strings(func(_ *comfy.Node, _, value string) (string, error) {
		local, ok := a.windows[value]
		if !ok {
			return value, nil
		}
		a.undo.input(local, value)
		return local, nil
	})
}

// prefix puts the job's outputs into a folder of their own: they cannot meet
// another's, and a save node never answers from another user's cache. Datasets
// lie in a folder of their user: a later job reads them.
func (a *attempt) prefix() {
	for _, n := range a.graph.Nodes {
		input, folder := "filename_prefix", a.undo.folder
		if comfy.NamesDataset(n.ClassType, "folder_name") {
			input, folder = "folder_name", ownFolder(a.row.ID.User)
		}
		old, ok := n.Text(input)
		if !ok {
			continue
		}
		if err := a.graph.SetText(n.ID, input, folder+"/"+inside(old)); err != nil {
			a.w.log.Warn("passing over a file name prefix", "attempt", a.id, "node", n.ID, "err", err)
		}
	}
}

// inside keeps a prefix below the folder that it is put into. Most servers refuse
// one that leads out, but not all.
func inside(prefix string) string {
	slashed := strings.ReplaceAll(prefix, `\`, "/")
	if strings.HasPrefix(slashed, "/") || slices.Contains(strings.Split(slashed, "/"), "..") {
		return strings.TrimPrefix(path.Clean("/"+slashed), "/")
	}
	return prefix
}
