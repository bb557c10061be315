package comfy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
)

// View opens a file of the server. The caller closes it. size is -1 when the
// server does not say. There is no limit on how long reading may take but ctx.
func (c *Client) View(ctx context.Context, item FileItem) (body io.ReadCloser, size int64, err error) {
	query := url.Values{"filename": {item.Filename}, "subfolder": {item.Subfolder}, "type": {item.Type}}
	req, err := c.request(ctx, http.MethodGet, "/view?"+query.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	// Sizes are compared later, so the bytes must come as they are on disk.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("view %s: %w", item.Filename, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		start, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // only to say more in the error
		return nil, 0, &StatusError{Method: http.MethodGet, Path: "/view", Status: resp.StatusCode, Body: string(start)}
	}
	return resp.Body, resp.ContentLength, nil
}

// Upload is a file to be put into one of the server's folders.
type Upload struct {
	Name      string // base name
	Subfolder string
	Type      string // "" means "input"
	Overwrite bool
}

// Upload streams a file to the server. The answer is where it went, which can be
// another name than the one asked for: always use the answer.
func (c *Client) Upload(ctx context.Context, to Upload, from io.Reader) (FileItem, error) {
	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	written := make(chan struct{})
	go func() { // ends when the request has read all, or has closed its side
		defer close(written)
		pw.CloseWithError(writeUpload(form, to, from))
	}()
	defer func() {
		pr.CloseWithError(errors.New("upload is over"))
		<-written
	}()
	req, err := c.request(ctx, http.MethodPost, "/upload/image", pr)
	if err != nil {
		return FileItem{}, err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	resp, err := c.http.Do(req)
	if err != nil {
		return FileItem{}, fmt.Errorf("upload %s: %w", to.Name, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return FileItem{}, fmt.Errorf("upload %s: read answer: %w", to.Name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return FileItem{}, &StatusError{Method: http.MethodPost, Path: "/upload/image", Status: resp.StatusCode, Body: string(raw[:min(len(raw), 200)])}
	}
	var answer UploadResponse
	if err := json.Unmarshal(bytes.TrimSpace(raw), &answer); err != nil {
		return FileItem{}, fmt.Errorf("upload %s: read answer: %w", to.Name, err)
	}
	return FileItem{Filename: answer.Name, Subfolder: answer.Subfolder, Type: answer.Type}, nil
}

// UploadResponse is the answer of POST /upload/image.
type UploadResponse struct {
	Name      string `json:"name"`
	Subfolder string `json:"subfolder"`
	Type      string `json:"type"`
}

func writeUpload(form *multipart.Writer, to Upload, from io.Reader) error {
	if to.Type == "" {
		to.Type = "input"
	}
	fields := [][2]string{{"type", to.Type}, {"subfolder", to.Subfolder}}
	if to.Overwrite {
		fields = append(fields, [2]string{"overwrite", "true"})
	}
	for _, f := range fields {
		if err := form.WriteField(f[0], f[1]); err != nil {
			return err
		}
	}
	part, err := form.CreateFormFile("image", to.Name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(part, from); err != nil {
		return err
	}
	return form.Close()
}
