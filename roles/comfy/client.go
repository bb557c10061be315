package comfy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// ClientConfig says which server a Client drives.
type ClientConfig struct {
	// BaseURL is the server's root, "http://127.0.0.1:8188". Required. Credentials
	// in it are sent as Basic auth.
	BaseURL string
	// HTTP makes the calls. It must have no total timeout: files stream through
	// it. Nil makes one that waits up to two minutes for an answer to begin, since
	// a server that loads a model may not answer for tens of seconds.
	HTTP *http.Client
	// Logger hears of oddities that are passed over. Nil discards.
	Logger *slog.Logger
	// SocketIdle is how long a socket may stay silent, pongs included, before it
	// counts as lost. 0 means five minutes.
	SocketIdle time.Duration
}

// Client makes ComfyUI's HTTP calls and opens its socket. It keeps no state
// between calls and is safe for concurrent use.
type Client struct {
	base *url.URL
	http *http.Client
	log  *slog.Logger
	idle time.Duration
}

// MaxAnswer is the largest JSON answer that is read: history and object_info are
// the big ones, some tens of MB.
const MaxAnswer = MaxBytes

// NewClient checks the configuration; it makes no call.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(cfg.BaseURL, "/"))
	if err != nil {
		return nil, fmt.Errorf("read ComfyUI address: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("read ComfyUI address %q: it must look like http://127.0.0.1:8188", base.Redacted())
	}
	c := &Client{base: base, http: cfg.HTTP, log: cfg.Logger, idle: cfg.SocketIdle}
	if c.http == nil {
		c.http = &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       30 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
		}}
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.idle == 0 {
		c.idle = 5 * time.Minute
	}
	return c, nil
}

// URL is the server's root without credentials, for logs.
func (c *Client) URL() string { return c.base.Redacted() }

// SystemStats asks how the server is; it is also the check that it lives.
func (c *Client) SystemStats(ctx context.Context) (SystemStats, error) {
	raw, err := c.GetJSON(ctx, "/system_stats")
	if err != nil {
		return SystemStats{}, err
	}
	s := SystemStats{Raw: raw}
	if err := json.Unmarshal(raw, &s); err != nil {
		return SystemStats{}, fmt.Errorf("read system_stats: %w", err)
	}
	return s, nil
}

// ObjectInfo asks for all classes. It can take a server many seconds.
func (c *Client) ObjectInfo(ctx context.Context) (*ObjectInfo, error) {
	raw, err := c.GetJSON(ctx, "/object_info")
	if err != nil {
		return nil, err
	}
	return ParseObjectInfo(raw)
}

// GetJSON fetches any JSON document. Python's NaN is already null in it. A
// status other than 200 is a *StatusError.
func (c *Client) GetJSON(ctx context.Context, path string) (json.RawMessage, error) {
	raw, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	raw = Sanitize(raw)
	if err := checkJSON(raw); err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	return raw, nil
}

// File fetches a file of at most limit bytes, and its Content-Type. A larger one
// is ErrTooLarge.
func (c *Client) File(ctx context.Context, path string, limit int64) (body []byte, contentType string, err error) {
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("GET %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", &StatusError{Method: http.MethodGet, Path: path, Status: resp.StatusCode}
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)); err != nil {
		return nil, "", fmt.Errorf("GET %s: read answer: %w", path, err)
	}
	if int64(len(body)) > limit {
		return nil, "", fmt.Errorf("GET %s: %w", path, ErrTooLarge)
	}
	return body, resp.Header.Get("Content-Type"), nil
}

// Prompt submits a body as PromptRequest.Encode makes it. A refusal is a
// *PromptError; an answer that cannot be understood is a *StatusError.
func (c *Client) Prompt(ctx context.Context, body json.RawMessage) (PromptResponse, error) {
	raw, err := c.call(ctx, http.MethodPost, "/prompt", body)
	var status *StatusError
	if errors.As(err, &status) {
		return PromptResponse{}, promptError(status, raw)
	}
	if err != nil {
		return PromptResponse{}, err
	}
	var r PromptResponse
	if err := json.Unmarshal(Sanitize(raw), &r); err != nil {
		return PromptResponse{}, fmt.Errorf("read answer to prompt: %w", err)
	}
	return r, nil
}

func promptError(status *StatusError, raw []byte) error {
	e := &PromptError{Status: status.Status}
	if json.Unmarshal(Sanitize(raw), e) != nil || e.Detail.Type == "" && e.Detail.Message == "" {
		return status
	}
	return e
}

// Queue lists what runs and what waits.
func (c *Client) Queue(ctx context.Context) (Queue, error) {
	var q Queue
	raw, err := c.GetJSON(ctx, "/queue")
	if err != nil {
		return q, err
	}
	if err := json.Unmarshal(raw, &q); err != nil {
		return q, fmt.Errorf("read queue: %w", err)
	}
	return q, nil
}

// IsRunning reports whether a prompt runs.
func (q Queue) IsRunning(id string) bool { return hasPrompt(q.Running, id) }

// IsPending reports whether a prompt waits.
func (q Queue) IsPending(id string) bool { return hasPrompt(q.Pending, id) }

func hasPrompt(items []QueueItem, id string) bool {
	return slices.ContainsFunc(items, func(q QueueItem) bool { return q.PromptID == id })
}

// History fetches one finished prompt; ok is false while it has not finished
// and when it is unknown.
func (c *Client) History(ctx context.Context, id string) (entry HistoryEntry, ok bool, err error) {
	raw, err := c.GetJSON(ctx, "/history/"+url.PathEscape(id))
	if err != nil {
		return entry, false, err
	}
	all, err := ParseObject(raw)
	if err != nil {
		return entry, false, fmt.Errorf("read history: %w", err)
	}
	one, ok := all.Lookup(id)
	if !ok {
		return entry, false, nil
	}
	if err := json.Unmarshal(one, &entry); err != nil {
		return entry, false, fmt.Errorf("read history: %w", err)
	}
	return entry, true, nil
}

// DeleteHistory forgets finished prompts. Unknown ids are no error.
func (c *Client) DeleteHistory(ctx context.Context, ids ...string) error {
	return c.post(ctx, "/history", map[string]any{"delete": notNil(ids)})
}

// DeleteQueued takes waiting prompts out of the queue. Unknown ids are no error.
func (c *Client) DeleteQueued(ctx context.Context, ids ...string) error {
	return c.post(ctx, "/queue", map[string]any{"delete": notNil(ids)})
}

// Interrupt stops one running prompt. An id is required: without one a server
// stops whatever it runs, and that may be somebody else's.
func (c *Client) Interrupt(ctx context.Context, promptID string) error {
	if promptID == "" {
		return errors.New("interrupt: no prompt id")
	}
	return c.post(ctx, "/interrupt", map[string]any{"prompt_id": promptID})
}

// Free asks the server to unload its models and drop its cache.
func (c *Client) Free(ctx context.Context) error {
	return c.post(ctx, "/free", map[string]any{"unload_models": true, "free_memory": true})
}

func (c *Client) post(ctx context.Context, path string, body any) error {
	_, err := c.call(ctx, http.MethodPost, path, encode(body))
	return err
}

// call makes one request and reads the whole answer. With a *StatusError the
// answer is returned too.
func (c *Client) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := c.request(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	if len(raw) > MaxAnswer {
		return nil, fmt.Errorf("%s %s: read answer: %w", method, path, ErrTooLarge)
	}
	if resp.StatusCode != http.StatusOK {
		return raw, &StatusError{Method: method, Path: path, Status: resp.StatusCode, Body: string(raw[:min(len(raw), 200)])}
	}
	return raw, nil
}

// request takes a path that is already escaped.
func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return req, nil
}
