// Package wheels brings Python wheels of which ComfyUI serves files: found in a
// folder, fetched from a package index, or by the machine's own pip. It promises
// that no file is used whose sha256 is not the pinned one. It refuses to run any
// of their code.
package wheels

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Wheel is one file of a package index.
type Wheel struct {
	Title        string // for messages: "ComfyUI frontend"
	Distribution string // as people give it to pip: "comfyui-frontend-package"
	Version      string
	SHA256       string // 64 hexadecimal digits, lower case
}

// Name is the file's name.
func (w Wheel) Name() string {
	return strings.ReplaceAll(w.Distribution, "-", "_") + "-" + w.Version + "-py3-none-any.whl"
}

// Source is where wheels come from.
type Source struct {
	Dir    string   // folder of ours, where fetched wheels are kept
	Search []string // more folders that may hold one
	Index  string   // package index (simple API); "" = only the machine's pip knows one
	Logger *slog.Logger
}

// Find returns a file with the right digest: one from the folders, or one
// fetched now. Its errors are one sentence with the cure.
func (s Source) Find(ctx context.Context, w Wheel) (string, error) {
	kept := filepath.Join(s.Dir, w.Name())
	for _, dir := range append([]string{s.Dir}, s.Search...) {
		path := filepath.Join(dir, w.Name())
		if _, err := os.Stat(path); err != nil {
			continue
		}
		err := Check(path, w.SHA256)
		if err == nil {
			return path, nil
		}
		s.Logger.Warn("a wheel was found and not used", "path", path, "err", err)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return "", fmt.Errorf("keep the wheel: %w", err)
	}
	var why []error
	for _, fetch := range []func(context.Context, Wheel, string) error{s.fetchIndex, s.fetchPip} {
		err := fetch(ctx, w, kept)
		if err == nil {
			if err = Check(kept, w.SHA256); err == nil {
				return kept, nil
			}
		}
		why = append(why, err)
	}
	return "", cluster.Errorf(cluster.Unavailable, "the %s %s is missing and could not be fetched (%v). Cure: on a machine with internet run `pip download --no-deps %s==%s`, put %s into %s, and start again",
		w.Title, w.Version, oneLine(errors.Join(why...)), w.Distribution, w.Version, w.Name(), s.Dir)
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Check compares a file's digest with the pin.
func Check(path, pin string) error {
	got, err := Sum(path)
	if err != nil {
		return cluster.Errorf(cluster.Unavailable, "the wheel %s cannot be read: %v", path, err)
	}
	if got != pin {
		return cluster.Errorf(cluster.Invalid, "the wheel %s has sha256 %s, wanted %s; fetch it again, or check the digest that was wanted", path, got, pin)
	}
	return nil
}

// Sum is a file's sha256 in hexadecimal.
func Sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// maxWheel bounds a download, in bytes.
const maxWheel = 512 << 20

var href = regexp.MustCompile(`(?i)href\s*=\s*["']([^"']+)["']`)

// fetchIndex reads the index's page of the package and downloads the wheel.
func (s Source) fetchIndex(ctx context.Context, w Wheel, dest string) error {
	if s.Index == "" {
		return errors.New("no --package-index is set")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	base, err := url.Parse(strings.TrimSuffix(s.Index, "/") + "/" + w.Distribution + "/")
	if err != nil {
		return fmt.Errorf("--package-index: %w", err)
	}
	page, err := get(ctx, base.String())
	if err != nil {
		return err
	}
	defer page.Close()
	raw, err := io.ReadAll(io.LimitReader(page, 16<<20))
	if err != nil {
		return fmt.Errorf("read the package index: %w", err)
	}
	for _, m := range href.FindAllSubmatch(raw, -1) {
		link, err := base.Parse(html.UnescapeString(string(m[1])))
		if err != nil || !strings.HasSuffix(link.Path, "/"+w.Name()) {
			continue
		}
		link.Fragment = ""
		body, err := get(ctx, link.String())
		if err != nil {
			return err
		}
		defer body.Close()
		return save(body, dest)
	}
	return fmt.Errorf("the package index has no %s", w.Name())
}

func get(ctx context.Context, u string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the package index: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the package index: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the package index answered %s", resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

// save writes a download under its name only when it is whole.
func save(r io.Reader, dest string) error {
	f, err := os.CreateTemp(filepath.Dir(dest), "wheel-*")
	if err != nil {
		return fmt.Errorf("keep the wheel: %w", err)
	}
	_, err = io.Copy(f, io.LimitReader(r, maxWheel))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), dest)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the wheel: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// fetchPip asks the machine's own package client, which knows the index, the
// proxy and the certificates that the admin set up.
func (s Source) fetchPip(ctx context.Context, w Wheel, dest string) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return errors.New("there is no python3 with pip here")
	}
	dir, err := os.MkdirTemp(filepath.Dir(dest), "pip-*")
	if err != nil {
		return fmt.Errorf("keep the wheel: %w", err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	s.Logger.Info("fetching a wheel with pip", "package", w.Distribution, "version", w.Version)
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
		"--no-deps", "--only-binary=:all:", "--dest", dir, w.Distribution+"=="+w.Version)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("pip: %w: %s", err, lines[len(lines)-1])
	}
	return os.Rename(filepath.Join(dir, w.Name()), dest)
}
