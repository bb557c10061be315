package sketch

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// getView answers a file, or a smaller or partial picture of it.
func (s *Server) getView(w http.ResponseWriter, r *http.Request) {
	// Pages ask for preview=webp;90, and Go drops what holds a bare semicolon.
	q, err := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "%3B"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if q.Get("filename") == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	name, folder := comfy.SplitAnnotation(q.Get("filename"))
	if folder == "" {
		folder = q.Get("type")
	}
	if folder == "" {
		folder = "output"
	}
	if strings.HasPrefix(name, "/") || strings.Contains(name, "..") || !slices.Contains(folderNames(), folder) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	name = filepath.Base(filepath.FromSlash(name))
	path, err := s.folders.resolve(folder, q.Get("subfolder"), name)
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	file, err := os.Open(path)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Disposition", `filename="`+strings.ReplaceAll(name, `"`, "")+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	if preview, channel := q.Get("preview"), q.Get("channel"); preview != "" || channel == "rgb" || channel == "a" {
		if body, kind, ok := derive(file, preview, channel); ok {
			h.Set("Content-Type", kind)
			_, _ = w.Write(body) // the client has gone
			return
		}
		if _, err := file.Seek(0, 0); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
	}
	h.Set("Content-Type", contentType(name))
	http.ServeContent(w, r, "", info.ModTime(), file)
}

// contentType never lets a browser run what a prompt has written.
func contentType(name string) string {
	kind := mime.TypeByExtension(filepath.Ext(name))
	media, _, _ := strings.Cut(kind, ";")
	for _, family := range []string{"image/", "video/", "audio/"} {
		if strings.HasPrefix(media, family) && media != "image/svg+xml" {
			return kind
		}
	}
	if media == "application/json" || media == "text/plain" {
		return kind
	}
	return "application/octet-stream"
}

// derive makes a JPEG preview, or one channel as PNG. There is no encoder for
// webp here; browsers take JPEG in its place.
func derive(file *os.File, preview, channel string) (body []byte, kind string, ok bool) {
	img, _, err := image.Decode(file)
	if err != nil {
		return nil, "", false
	}
	var b bytes.Buffer
	if preview != "" {
		quality := 90
		if _, given, found := strings.Cut(preview, ";"); found {
			if n, err := strconv.Atoi(given); err == nil && n > 0 && n <= 100 {
				quality = n
			}
		}
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: quality})
		return b.Bytes(), "image/jpeg", err == nil
	}
	bounds := img.Bounds()
	out := image.NewNRGBA(image.Rect(0, 0, bounds.Dx(), bounds.Dy()))
	for y := range bounds.Dy() {
		for x := range bounds.Dx() {
			c := color.NRGBAModel.Convert(img.At(bounds.Min.X+x, bounds.Min.Y+y)).(color.NRGBA)
			if channel == "a" {
				c = color.NRGBA{A: c.A}
			} else {
				c.A = 255
			}
			out.SetNRGBA(x, y, c)
		}
	}
	err = png.Encode(&b, out)
	return b.Bytes(), "image/png", err == nil
}

// postUpload stores a file, whatever it holds: the field is called image for all.
func (s *Server) postUpload(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseMultipartForm(32 << 20); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	defer func() { _ = r.MultipartForm.RemoveAll() }() // only spilled parts in the system's temp folder
	parts := r.MultipartForm.File["image"]
	if len(parts) == 0 || parts[0].Filename == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	to := comfy.Upload{Name: parts[0].Filename, Subfolder: r.FormValue("subfolder"), Type: r.FormValue("type")}
	if to.Type == "" {
		to.Type = "input"
	}
	if !slices.Contains(folderNames(), to.Type) {
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return
	}
	to.Overwrite = r.FormValue("overwrite") == "true" || r.FormValue("overwrite") == "1"
	answer, err := s.folders.upload(parts[0], to)
	switch {
	case errors.Is(err, errOutside):
		w.WriteHeader(http.StatusBadRequest)
	case err != nil:
		s.log.Warn("storing an upload", "err", err)
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
	default:
		writeValue(w, answer)
	}
}

func (s *Server) getFiles(w http.ResponseWriter, r *http.Request) {
	folder := r.PathValue("folder")
	if !slices.Contains(folderNames(), folder) {
		writeJSON(w, http.StatusBadRequest, []byte(`{"error":"Invalid directory type"}`))
		return
	}
	names, err := s.folders.list(folder)
	if err != nil {
		s.log.Warn("listing files", "err", err)
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return
	}
	writeValue(w, names)
}
