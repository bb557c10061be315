package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/roles/comfy"
)

// form is an upload: its one file, stored already, and its small fields.
type form struct {
	name   string
	ref    cluster.Ref
	size   int64
	fields map[string]string
}

// maxField bounds a field of an upload that is not the file, in bytes.
const maxField = 64 << 10

// readForm streams a multipart body: the file goes to the blob store as it
// comes and is never whole in memory.
func (g *Gateway) readForm(c *call) (*form, error) {
	kind, params, err := mime.ParseMediaType(string(c.Request.Header.ContentType()))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return nil, cluster.Errorf(cluster.Invalid, "An upload is multipart/form-data with the file in its part \"image\".")
	}
	if err := g.cfg.Room(c.user, int64(max(0, c.Request.Header.ContentLength()))); err != nil {
		return nil, err // before its bytes have travelled
	}
	body := c.RequestBodyStream()
	if body == nil {
		body = http.NoBody
	}
	limited := &limitedReader{r: body, left: g.cfg.MaxUpload}
	f := &form{fields: map[string]string{}}
	for r := multipart.NewReader(limited, params["boundary"]); ; {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, uploadError(err)
		}
		if part.FormName() == "image" && part.FileName() != "" {
			if f.ref != "" {
				return nil, cluster.Errorf(cluster.Invalid, "An upload holds one file.")
			}
			f.name = part.FileName()
			if f.ref, f.size, err = g.cfg.Take(c, part, -1); err != nil {
				return nil, uploadError(err)
			}
			continue
		}
		raw, err := io.ReadAll(io.LimitReader(part, maxField+1))
		if err != nil {
			return nil, uploadError(err)
		}
		if len(raw) > maxField || len(f.fields) > 50 {
			return nil, cluster.Errorf(cluster.Invalid, "A field of the upload is too long.")
		}
		f.fields[part.FormName()] = string(raw)
	}
}

type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, cluster.Errorf(cluster.TooLarge, "This file is larger than the workshop accepts. Tell the instructor if you need it.")
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

func uploadError(err error) error {
	var known *cluster.Error
	if errors.As(err, &known) {
		return known
	}
	return cluster.Errorf(cluster.Invalid, "The upload broke off or is not well formed; send it again.")
}

// target is where an upload shall go.
func (f *form) target() (files.Place, error) {
	p := files.Place{Area: files.Input}
	if t := f.fields["type"]; t != "" {
		p.Area = files.Area(t)
	}
	if !p.Area.Valid() {
		return p, cluster.Errorf(cluster.Invalid, "type is input, temp or output")
	}
	var err error
	if p.Subfolder, err = files.CleanSubfolder(f.fields["subfolder"]); err != nil {
		return p, err
	}
	// A browser may send a path; the last part is the file's name.
	p.Name = path.Base(strings.ReplaceAll(f.name, `\`, "/"))
	_, err = files.CleanPath(p.Name)
	return p, err
}

func (f *form) overwrite() bool {
	return f.fields["overwrite"] == "true" || f.fields["overwrite"] == "1"
}

// uploadImage is POST /upload/image, for media of any kind.
func (g *Gateway) uploadImage(c *call) {
	f, err := g.readForm(c)
	if err != nil {
		c.SetConnectionClose() // what was not read of the body is not worth reading
		fail(c.RequestCtx, err)
		return
	}
	if f.ref == "" {
		empty(c.RequestCtx, fasthttp.StatusBadRequest)
		return
	}
	p, err := f.target()
	if err != nil {
		empty(c.RequestCtx, fasthttp.StatusBadRequest)
		return
	}
	g.putFile(c, &files.PutInput{User: c.user, Place: p, Ref: f.ref, Size: f.size, Overwrite: f.overwrite()})
}

func (g *Gateway) putFile(c *call, cmd *files.PutInput) {
	out, err := g.commit(c, cmd)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	var p files.Place
	if err := out.Decode(&p); err != nil {
		fail(c.RequestCtx, err)
		return
	}
	g.writeValue(c, map[string]string{"name": p.Name, "subfolder": p.Subfolder, "type": string(p.Area)})
}

// uploadMask is POST /upload/mask: the alpha of the upload goes onto the
// picture that original_ref names.
func (g *Gateway) uploadMask(c *call) {
	f, err := g.readForm(c)
	if err != nil {
		c.SetConnectionClose()
		fail(c.RequestCtx, err)
		return
	}
	p, err := f.target()
	if err != nil || f.ref == "" {
		empty(c.RequestCtx, fasthttp.StatusBadRequest)
		return
	}
	original, ok := g.maskOriginal(c, f)
	if !ok {
		empty(c.RequestCtx, fasthttp.StatusBadRequest)
		return
	}
	raw, err := g.masked(c, original, f.ref)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	ref, size, err := g.cfg.Blobs.Put(c, bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	g.putFile(c, &files.PutInput{User: c.user, Place: p, Ref: ref, Size: size, Overwrite: f.overwrite()})
}

func (g *Gateway) maskOriginal(c *call, f *form) (file files.File, ok bool) {
	var ref struct {
		Filename  string `json:"filename"`
		Subfolder string `json:"subfolder"`
		Type      string `json:"type"`
	}
	if json.Unmarshal([]byte(f.fields["original_ref"]), &ref) != nil {
		return file, false
	}
	if ref.Type == "" {
		ref.Type = string(files.Output)
	}
	name, folder := comfy.SplitAnnotation(ref.Filename)
	if folder == "" {
		folder = ref.Type
	}
	p := files.Place{Area: files.Area(folder), Subfolder: strings.Trim(ref.Subfolder, "/"), Name: name}
	g.cfg.Tables.Files(func(t *files.Table) { file, ok = t.File(c.user, p) })
	return file, ok
}

// masked puts the mask's alpha on the original and encodes it as PNG.
func (g *Gateway) masked(c *call, original files.File, mask cluster.Ref) ([]byte, error) {
	g.pictures.Lock()
	defer g.pictures.Unlock()
	open := func(ref blob.Ref) (*image.NRGBA, error) {
		b, err := g.cfg.Blobs.Open(c, ref)
		if err != nil {
			return nil, err
		}
		img, err := decode(b)
		if err != nil {
			return nil, cluster.Errorf(cluster.Invalid, "One of the two pictures cannot be read.")
		}
		out := image.NewNRGBA(image.Rect(0, 0, img.Bounds().Dx(), img.Bounds().Dy()))
		draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Src)
		return out, nil
	}
	base, err := open(original.Ref)
	if err != nil {
		return nil, err
	}
	texts, err := g.pngTexts(c, original.Ref)
	if err != nil {
		return nil, err
	}
	alpha, err := open(mask)
	if err != nil {
		return nil, err
	}
	if base.Bounds() != alpha.Bounds() {
		return nil, cluster.Errorf(cluster.Invalid, "The mask and its picture have different sizes.")
	}
	for i := 3; i < len(base.Pix); i += 4 {
		base.Pix[i] = alpha.Pix[i]
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, base); err != nil {
		return nil, fmt.Errorf("write the masked picture: %w", err)
	}
	return withTexts(buf.Bytes(), texts), nil
}
