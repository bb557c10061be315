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
	if len(a.row.Inputs) == 0 {
		return nil
	}
	wanted := make(map[string]jobs.Input, len(a.row.Inputs))
	for _, in := range a.row.Inputs {
		wanted[in.Value] = in
	}
	return a.graph.Strings(func(n *comfy.Node, input, value string) (string, error) {
		in, ok := wanted[value]
		if !ok {
			return value, nil
		}
		now, err := a.bringThere(ctx, in, inputFolder(a.row.ID.User, n.ClassType, input))
		if err != nil {
			return "", err
		}
		a.undo.input(now, value)
		return now, nil
	})
}

// inputFolder is where a class looks for its files. Nearly all find them in any
// folder; a few only offer what lies in one.
func inputFolder(u cluster.User, class, input string) string {
	sum := sha256.Sum256([]byte(u))
	own := "gw/" + hex.EncodeToString(sum[:8])
	switch {
	case strings.HasPrefix(class, "Load3D") && input == "model_file":
		return "3d/" + own
	case class == "OpenAIInputFiles", class == "GeminiInputFiles":
		return ""
	}
	return own
}

// bringThere uploads one file, with patience for a ComfyUI that is away, and
// returns how the graph has to name it.
func (a *attempt) bringThere(ctx context.Context, in jobs.Input, folder string) (string, error) {
	patience := time.Now().Add(a.w.cfg.Patience.Lost)
	pause := a.w.backoff()
	for {
		value, err := a.upload(ctx, in, folder)
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
func (a *attempt) upload(ctx context.Context, in jobs.Input, folder string) (string, error) {
	name := string(in.Ref[:min(16, len(in.Ref))]) + "-" + safeName(in.Name)
	done := map[string]string{}
	if a.w.link != nil {
		done = a.w.link.uploaded
	}
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
	done[key] = value
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
	if len(a.w.windows) == 0 {
		return nil
	}
	return a.graph.Strings(func(_ *comfy.Node, _, value string) (string, error) {
		local, ok := a.w.windows[value]
		if !ok {
			return value, nil
		}
		a.undo.input(local, value)
		return local, nil
	})
}

// prefix puts the job's outputs into a folder of their own: they cannot meet
// another's, and a save node never answers from another user's cache.
func (a *attempt) prefix() {
	for _, n := range a.graph.Nodes {
		old, ok := n.Text("filename_prefix")
		if !ok {
			continue
		}
		if err := a.graph.SetText(n.ID, "filename_prefix", a.undo.folder+"/"+inside(old)); err != nil {
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
