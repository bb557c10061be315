package agent

import (
	"context"
	"net/http"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/backup"
)

// BackupFiles answers POST /api/backup/files: files of a backup that were brought back
// into the running workshop.
type BackupFiles struct {
	Schema  int      `json:"schema_version"`
	Backup  string   `json:"backup"`
	Taken   int      `json:"taken"`
	Already int      `json:"already"` // they are there, byte for byte
	Renamed []string `json:"renamed"` // where another file has the name now, "old -> new"
	Failed  []string `json:"failed"`  // with the reason
}

// bringFiles puts one person's files of a backup back, or some of them, beside what
// they have now: nothing is replaced.
func (a *api) bringFiles(w http.ResponseWriter, r *http.Request) {
	var in asked
	err := decode(w, r, &in)
	var out BackupFiles
	if err == nil {
		out, err = a.bring(r, in)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}

func (a *api) bring(r *http.Request, in asked) (BackupFiles, error) {
	out := BackupFiles{Schema: 1, Renamed: []string{}, Failed: []string{}}
	b, err := a.keeping()
	if err != nil {
		return out, err
	}
	if in.User == "" {
		return out, cluster.Errorf(cluster.Invalid, "say whose files: --user=NAME")
	}
	p, err := b.place(in.Place)
	if err != nil {
		return out, err
	}
	im, err := a.v1(r)
	if err != nil {
		return out, err
	}
	im.mark = "restored"
	m, err := p.vault.Find(r.Context(), in.Name)
	if err != nil {
		return out, err
	}
	list, err := m.Pick(in.User, in.Path)
	if err != nil {
		return out, err
	}
	out.Backup = m.Name
	size := map[cluster.Ref]int64{}
	for _, one := range m.Blobs {
		size[one.Ref] = one.Bytes
	}
	for _, f := range list {
		rest := strings.TrimPrefix(f.Path, string(in.User)+"/")
		area, path, _ := strings.Cut(rest, "/")
		place, err := bringFile(r.Context(), im, p.vault, V1File{User: in.User, Area: area, Path: path, Ref: f.Ref, Size: size[f.Ref], Made: m.Made.UnixMilli()})
		switch {
		case r.Context().Err() != nil:
			return out, context.Cause(r.Context())
		case err != nil:
			out.Failed = append(out.Failed, rest+": "+sentence(err))
		case place.Already:
			out.Already++
		default:
			out.Taken++
			if place.Path != path {
				out.Renamed = append(out.Renamed, rest+" -> "+area+"/"+place.Path)
			}
		}
	}
	return out, nil
}

func bringFile(ctx context.Context, im *v1Import, v *backup.Vault, f V1File) (V1Place, error) {
	if place, err := im.look(f); err != nil || place.Already {
		return place, err
	}
	body, _, err := v.OpenBlob(ctx, f.Ref)
	if err != nil {
		return V1Place{}, err
	}
	defer body.Close()
	return im.take(ctx, f, body)
}
