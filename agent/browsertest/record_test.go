package browsertest_test

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/browsertest"
)

var (
	recordURL     = flag.String("baseline-url", "", "record a baseline from the real ComfyUI at this address, with a fresh user folder")
	recordLabel   = flag.String("baseline-frontend", "", "version of the frontend that this ComfyUI serves")
	recordComfyUI = flag.String("baseline-comfyui", "", "name and version of this ComfyUI, for example core 0.3.64")
)

// TestRecordBaseline writes testdata/baseline/<frontend>.json, and what the frontend keeps in its browser, from a real
// ComfyUI. It runs only when asked for:
//
//	go test ./agent/browsertest -run TestRecordBaseline -baseline-url http://127.0.0.1:8188/ -baseline-frontend 1.37.11 -baseline-comfyui "core 0.3.64"
//
// What another ComfyUI was recorded to show stays in the file, and routes that this one does not have at all give no
// licence: frontends 1.45 and later ask core 0.3.64 for jobs that it has not.
//
// The 0.12 fork has an extension (eval_python.js) that waits for a script of another site before anything shows, without end
// where there is no internet: it has to be out of the way.
func TestRecordBaseline(t *testing.T) {
	if *recordURL == "" {
		t.Skip("no -baseline-url: baselines are recorded by hand, from a real ComfyUI")
	}
	first := browsertest.Open(t, browsertest.Options{URL: *recordURL, FrontendLabel: *recordLabel})
	tour(t, first, "baseline", has(t, *recordURL+"api/jobs"))
	left := filepath.Join("..", "testdata", "storage", *recordLabel+".json")
	if err := os.WriteFile(left, []byte(first.Storage()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dirty := browsertest.NewBrowser(t)
	again := browsertest.Open(t, browsertest.Options{URL: strings.TrimSuffix(*recordURL, "/") + "/features", FrontendLabel: *recordLabel, Browser: dirty})
	for _, version := range frontends {
		if raw, err := os.ReadFile(filepath.Join("..", "testdata", "storage", version+".json")); err == nil && version != *recordLabel {
			again.FillStorage(string(raw))
		}
	}
	again.Goto(*recordURL)
	again.WaitAppReady()
	again.WaitSettled()
	b := browsertest.Baseline{
		Frontend: *recordLabel, ComfyUI: *recordComfyUI, Recorded: time.Now().UTC().Format(time.DateOnly),
		FailedRequests: append(first.Failures(), again.Failures()...),
		ConsoleErrors:  append(first.ConsoleErrors(), again.ConsoleErrors()...),
	}
	// A server error of the real one is its bug and no licence for ours.
	b.FailedRequests = slices.DeleteFunc(b.FailedRequests, func(f browsertest.Failure) bool { return f.Status >= 500 })
	b.ConsoleErrors = slices.DeleteFunc(b.ConsoleErrors, func(e string) bool { return strings.HasSuffix(e, ": 500") })
	b.FailedRequests = slices.DeleteFunc(b.FailedRequests, func(f browsertest.Failure) bool {
		return f.Status == http.StatusNotFound && !slices.ContainsFunc([]string{"userdata", "/view", "user.css", "favicon"}, func(known string) bool { return strings.Contains(f.Path, known) })
	})
	b.ConsoleErrors = slices.DeleteFunc(b.ConsoleErrors, func(e string) bool { return strings.Contains(e, "404") })
	path := filepath.Join("..", "testdata", "baseline", *recordLabel+".json")
	if old, err := browsertest.ReadBaseline(path); err == nil && old.ComfyUI != b.ComfyUI {
		b.ComfyUI = old.ComfyUI + " and " + b.ComfyUI
		b.FailedRequests, b.ConsoleErrors = append(b.FailedRequests, old.FailedRequests...), append(b.ConsoleErrors, old.ConsoleErrors...)
	}
	if err := b.Write(path); err != nil {
		t.Fatal(err)
	}
	t.Logf("wrote %s: %d failed requests, %d console errors", path, len(b.FailedRequests), len(b.ConsoleErrors))
}

// has reports whether a ComfyUI has a route.
func has(t *testing.T, url string) bool {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
