package frontend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// pins are the digests of the wheels that were tried with this agent.
func pins() map[string]string {
	return map[string]string{
		"1.27.10": "822b2ef715771ec83ad19605d02e25b069991d366b81ccc550ab280ae9c831b8",
		"1.37.11": "6fed139ec942b05430559fa8e45b584029b3ed623899212ec6ffb5b09cdc042c",
		"1.45.21": "8fbce63593bb5ee94c95bf966ddd4d7c35e7719c2bb755c6fb62ac81ca803ce2",
		"1.58.1":  "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9",
	}
}

func knownVersions() []string { return slices.Sorted(maps.Keys(pins())) }

// distribution is the package's name as people give it to pip.
const distribution = "comfyui-frontend-package"

func wheelName(version string) string {
	return "comfyui_frontend_package-" + version + "-py3-none-any.whl"
}

// findWheel returns a wheel file with the right digest: the one that was named,
// one from the folders, or one fetched now.
func findWheel(ctx context.Context, cfg Config, pin string) (string, error) {
	if cfg.Wheel != "" {
		return cfg.Wheel, checkWheel(cfg.Wheel, pin)
	}
	kept := filepath.Join(cfg.Dir, "wheels", wheelName(cfg.Version))
	for _, dir := range append([]string{filepath.Dir(kept)}, cfg.Search...) {
		path := filepath.Join(dir, wheelName(cfg.Version))
		if _, err := os.Stat(path); err != nil {
			continue
		}
		err := checkWheel(path, pin)
		if err == nil {
			return path, nil
		}
		cfg.Logger.Warn("a wheel was found and not used", "path", path, "err", err)
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return "", fmt.Errorf("keep the wheel: %w", err)
	}
	var why []error
	for _, fetch := range []func(context.Context, Config, string, string) error{fetchIndex, fetchPip} {
		err := fetch(ctx, cfg, pin, kept)
		if err == nil {
			if err = checkWheel(kept, pin); err == nil {
				return kept, nil
			}
		}
		why = append(why, err)
	}
	return "", cluster.Errorf(cluster.Unavailable, "the ComfyUI frontend %s is missing and could not be fetched (%v). Cure: on a machine with internet run `pip download --no-deps %s==%s`, put %s into %s, and start again",
		cfg.Version, oneLine(errors.Join(why...)), distribution, cfg.Version, wheelName(cfg.Version), filepath.Dir(kept))
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// checkWheel compares a file's digest with the pin.
func checkWheel(path, pin string) error {
	got, err := fileSHA256(path)
	if err != nil {
		return cluster.Errorf(cluster.Unavailable, "the frontend's wheel %s cannot be read: %v", path, err)
	}
	if got != pin {
		return cluster.Errorf(cluster.Invalid, "the frontend's wheel %s has sha256 %s, wanted %s; fetch it again, or check --frontend-version and --frontend-sha256", path, got, pin)
	}
	return nil
}

func fileSHA256(path string) (string, error) {
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
func fetchIndex(ctx context.Context, cfg Config, _, dest string) error {
	if cfg.Index == "" {
		return errors.New("no --package-index is set")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	base, err := url.Parse(strings.TrimSuffix(cfg.Index, "/") + "/" + distribution + "/")
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
		if err != nil || !strings.HasSuffix(link.Path, "/"+wheelName(cfg.Version)) {
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
	return fmt.Errorf("the package index has no %s", wheelName(cfg.Version))
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
func fetchPip(ctx context.Context, cfg Config, _, dest string) error {
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
	cfg.Logger.Info("fetching the frontend with pip", "version", cfg.Version)
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
		"--no-deps", "--only-binary=:all:", "--dest", dir, distribution+"=="+cfg.Version)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("pip: %w: %s", err, lines[len(lines)-1])
	}
	return os.Rename(filepath.Join(dir, wheelName(cfg.Version)), dest)
}
