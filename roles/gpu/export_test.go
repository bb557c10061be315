package gpu

import (
	"context"
	"io"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// EditPNG gives tests the reader that edits a picture's text.
func EditPNG(from io.Reader, edit func(keyword string) (text []byte, keep bool)) io.Reader {
	return &pngReader{from: from, edit: edit}
}

// TrimPaths gives tests what is done to host paths.
var TrimPaths = trimPaths

// UploadWithoutLink gives tests an upload for a job that came while the
// connection was being made anew.
func UploadWithoutLink(ctx context.Context, w *Worker, in jobs.Input) (string, error) {
	return w.newAttempt(jobs.Assignment{}).upload(ctx, in, "folder", in.Name)
}
