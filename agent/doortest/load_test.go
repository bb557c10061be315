package doortest_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// savedWorkflow is about what a page sends along of a workflow of fifty nodes:
// 30 kB, no two alike.
func savedWorkflow(seed int) map[string]any {
	nodes := make([]map[string]any, 50)
	for i := range nodes {
		sum := sha256.Sum256([]byte(strconv.Itoa(seed*100 + i)))
		nodes[i] = map[string]any{
			"id": i, "type": "EmptyImage", "pos": []float64{float64(i) * 210.5, 130.25}, "size": []float64{270, 130}, "flags": map[string]any{}, "order": i, "mode": 0,
			"inputs":  []any{map[string]any{"name": "width", "type": "INT", "widget": map[string]string{"name": "width"}, "link": nil}, map[string]any{"name": "height", "type": "INT", "widget": map[string]string{"name": "height"}, "link": nil}},
			"outputs": []any{map[string]any{"name": "IMAGE", "type": "IMAGE", "links": []int{i}}}, "properties": map[string]string{"Node name for S&R": "EmptyImage", "cnr_id": "comfy-core", "ver": "0.3.64"},
			"widgets_values": []any{512, 512, 1, seed, hex.EncodeToString(sum[:])},
		}
	}
	return map[string]any{"id": fmt.Sprintf("wf-%d", seed), "nodes": nodes, "links": []any{}, "version": 0.4}
}

// TestBenchManyJobs measures the lists that a page asks for after every event,
// with 1,000 finished jobs and 2,000 that wait, all of one user.
func TestBenchManyJobs(t *testing.T) {
	benchOnly(t)
	const ended, waiting = 1000, 2000
	a := doortest.Start(t, doortest.Options{Args: []string{"--max-queue-depth=0"}})
	c := a.Client("user001")
	submit := func(i int, g doortest.Graph) {
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": g, "client_id": "bench", "extra_data": map[string]any{"extra_pnginfo": map[string]any{"workflow": savedWorkflow(i)}}}, nil)
	}
	remaining := func() int {
		var p struct {
			Exec struct {
				Remaining int `json:"queue_remaining"`
			} `json:"exec_info"`
		}
		c.JSON(t, "GET", "/prompt", nil, &p)
		return p.Exec.Remaining
	}
	for i := range ended {
		submit(i, doortest.Inverted(i, 8, "bench"))
	}
	doortest.Until(t, 5*time.Minute, "the first jobs have ended", func() bool { return remaining() == 0 })
	for i := range waiting {
		submit(ended+i, doortest.Slow(i, 8, 3600, 10))
	}
	if n := remaining(); n != waiting {
		t.Fatalf("%d jobs wait", n)
	}
	for _, path := range []string{"/queue", "/history", "/history?max_items=64", "/api/jobs?status=in_progress,pending&limit=200&offset=0", "/api/jobs?status=completed,failed,cancelled&limit=64&offset=0", "/api/jobs"} {
		var ms []float64
		packed, whole := 0, 0
		begin := time.Now()
		for i := range 100 {
			at := time.Now()
			code, _, raw, err := c.Do("GET", path, nil, "Accept-Encoding", "gzip")
			if err != nil || code != 200 {
				t.Fatalf("%s: %d, %v", path, code, err)
			}
			ms = append(ms, time.Since(at).Seconds()*1000)
			if i == 0 {
				packed, whole = len(raw), len(gunzip(t, raw))
			}
		}
		fmt.Printf("many_jobs waiting=%d ended=%d path=%s first_ms=%.1f p50_ms=%.1f p95_ms=%.1f gzip_kb=%d json_kb=%d total_s=%.1f goal_p95_ms=50\n", waiting, ended, path, ms[0], at(ms, 50), at(ms, 95), packed>>10, whole>>10, time.Since(begin).Seconds())
	}
	fmt.Printf("many_jobs_memory rss_mb=%.0f\n", rss(t, a.PID()))
}

func gunzip(t *testing.T, raw []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return raw // small answers are not packed
	}
	out, err := io.ReadAll(z)
	if err != nil || !json.Valid(out) {
		t.Fatalf("not whole: %v", err)
	}
	return out
}

// TestBenchLargeFiles measures one large file in and out of the door, and how
// much memory the process takes for it.
func TestBenchLargeFiles(t *testing.T) {
	benchOnly(t)
	const size = 2 << 30
	a := doortest.Start(t, doortest.Options{})
	c := a.Client("user001")
	before := rss(t, a.PID())
	peak := watchRSS(t, a.PID())

	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	sent := sha256.New()
	go func() {
		part, err := form.CreateFormFile("image", "film.mp4")
		if err == nil {
			_, err = io.Copy(io.MultiWriter(part, sent), io.LimitReader(&noise{}, size))
		}
		if err == nil {
			err = form.Close()
		}
		pw.CloseWithError(err)
	}()
	begin := time.Now()
	req, err := http.NewRequest("POST", c.Base+"/upload/image", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(c.User, c.Pass)
	req.Header.Set("Content-Type", form.FormDataContentType())
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("upload: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	up := time.Since(begin).Seconds()
	upPeak := peak()

	peak = watchRSS(t, a.PID())
	begin = time.Now()
	req, err = http.NewRequest("GET", c.Base+"/view?type=input&filename=film.mp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(c.User, c.Pass)
	if resp, err = http.DefaultClient.Do(req); err != nil || resp.StatusCode != 200 {
		t.Fatalf("view: %v, %v", resp, err)
	}
	got := sha256.New()
	n, err := io.Copy(got, resp.Body)
	if err != nil || n != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Fatalf("got %d bytes, %v; the same: %v", n, err, bytes.Equal(got.Sum(nil), sent.Sum(nil)))
	}
	_ = resp.Body.Close()
	down := time.Since(begin).Seconds()
	fmt.Printf("large_file mb=%d up_mb_s=%.0f up_rss_growth_mb=%.1f down_mb_s=%.0f down_rss_growth_mb=%.1f goal_rss_growth_mb=32\n", size>>20, float64(size>>20)/up, upPeak-before, float64(size>>20)/down, peak()-before)
}

// noise is a block of random bytes over and over: making 2 GB of them would be
// what is measured.
type noise struct {
	block []byte
	at    int
}

func (n *noise) Read(p []byte) (int, error) {
	if n.block == nil {
		n.block = make([]byte, 1<<20)
		_, _ = rand.Read(n.block) // it never fails
	}
	k := copy(p, n.block[n.at:])
	n.at = (n.at + k) % len(n.block)
	return k, nil
}

// watchRSS looks at a process's memory until the returned function is called,
// which returns the most that was seen, in MB.
func watchRSS(t *testing.T, pid int) (peak func() float64) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan float64)
	go func() {
		most := 0.0
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, rss(t, pid))
			case <-stop:
				done <- most
				return
			}
		}
	}()
	return func() float64 { close(stop); return <-done }
}
