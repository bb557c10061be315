package comfyui_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/roles/gpu/comfyui"
)

// actsKey tells this test's own binary to act as a Python that runs ComfyUI.
const actsKey = "COMFYUI_TEST_ACTS"

func TestMain(m *testing.M) {
	if acts := os.Getenv(actsKey); acts != "" {
		os.Exit(act(acts, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// act is what a ComfyUI does as seen from outside.
func act(how string, args []string) int {
	flags := flag.NewFlagSet("comfyui", flag.ContinueOnError)
	port, listen, paths := flags.Int("port", 0, ""), flags.String("listen", "", ""), flags.String("extra-model-paths-config", "", "")
	for _, d := range []string{"input", "temp", "user"} {
		flags.String(d+"-directory", "", "")
	}
	output := flags.String("output-directory", "", "")
	flags.Bool("disable-auto-launch", false, "")
	if len(args) < 2 || args[0] != "-u" || flags.Parse(args[2:]) != nil {
		fmt.Fprintln(os.Stderr, "main.py: error: unrecognized arguments")
		return 2
	}
	switch how {
	case "no package":
		fmt.Fprintln(os.Stderr, "Traceback (most recent call last):\n  File \"main.py\", line 1\nModuleNotFoundError: No module named 'requests'")
		return 1
	case "no library":
		fmt.Fprintln(os.Stderr, "ImportError: libgomp.so.1: cannot open shared object file: No such file or directory")
		return 1
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "writes":
		if _, err := os.ReadFile(*paths); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := os.WriteFile(filepath.Join(*output, "probe"), []byte("x"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "slow":
		fmt.Println("Device: cpu")
		time.Sleep(700 * time.Millisecond)
	}
	fmt.Println("\x1b[32mSet vram state to: NORMAL_VRAM\x1b[0m")
	fmt.Println("   0.0 seconds (IMPORT FAILED): /x/custom_nodes/bad-pack")
	ln, err := net.Listen("tcp", net.JoinHostPort(*listen, strconv.Itoa(*port)))
	if err != nil {
		return 1
	}
	http.HandleFunc("/system_stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"system": map[string]any{"comfyui_version": "9.9"}, "devices": []any{}})
	})
	http.HandleFunc("/models", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `["checkpoints","loras"]`) })
	http.HandleFunc("/models/{kind}", func(w http.ResponseWriter, r *http.Request) {
		text, _ := os.ReadFile(*paths)
		names := []string{}
		if strings.Contains(string(text), strconv.Quote(r.PathValue("kind"))) && r.PathValue("kind") == "checkpoints" {
			names = append(names, "a.safetensors", `sub/b.safetensors`)
		}
		_ = json.NewEncoder(w).Encode(names)
	})
	fmt.Printf("serving on %s\n", ln.Addr())
	_ = http.Serve(ln, nil) //nolint:gosec // a test's
	return 1
}

// freePort is one that nobody has at this moment.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// start runs a process that acts as it is told.
func start(t *testing.T, acts string, change func(*comfyui.Config)) *comfyui.Process {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.py"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := comfyui.Config{
		Name: "n/0", Dir: dir, Python: self, Port: freePort(t), Work: filepath.Join(t.TempDir(), "work"), Env: append(os.Environ(), actsKey+"="+acts),
		Pace: comfyui.Pace{Probe: 20 * time.Millisecond, Polite: 300 * time.Millisecond, Backoff: 20 * time.Millisecond},
	}
	if change != nil {
		change(&cfg)
	}
	p, err := comfyui.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(t.Context()) }()
	t.Cleanup(func() {
		<-done
		if p.Alive() {
			t.Error("it runs after Run has ended")
		}
	})
	return p
}

// until waits for a state and returns it.
func until(t *testing.T, p *comfyui.Process, what string, ok func(comfyui.State) bool) comfyui.State {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if s := p.State(); ok(s) {
			return s
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: not within 20 s; it is %+v, and printed %v", what, p.State(), p.Tail(20))
	return comfyui.State{}
}

func ready(s comfyui.State) bool { return s.Phase == comfyui.Ready }

func TestKilledComfyUIComesBackByItself(t *testing.T) {
	p := start(t, "well", nil)
	first := until(t, p, "ready", ready)
	if len(first.Lacks) != 1 || first.Lacks[0] != "bad-pack" {
		t.Errorf("nodes that could not be imported: %q", first.Lacks)
	}
	for _, l := range p.Tail(0) {
		if strings.Contains(l.Text, "\x1b") {
			t.Errorf("the log has control signs: %q", l.Text)
		}
	}
	killed := time.Now()
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := until(t, p, "ready again", func(s comfyui.State) bool { return ready(s) && s.PID != first.PID })
	if again.Starts != 2 || time.Since(killed) > 5*time.Second {
		t.Errorf("started %d times, back after %s", again.Starts, time.Since(killed))
	}
}

func TestRestartLadderEndsADeafComfyUI(t *testing.T) {
	p := start(t, "deaf", nil)
	first := until(t, p, "ready", ready)
	p.Restart("it does not stop a job")
	until(t, p, "ready again", func(s comfyui.State) bool { return ready(s) && s.PID != first.PID })
	if err := syscall.Kill(first.PID, 0); err == nil {
		t.Error("the first process is still there")
	}
	p.Stop("for lunch")
	until(t, p, "stopped", func(s comfyui.State) bool { return s.Phase == comfyui.Stopped && s.PID == 0 })
	p.Start()
	until(t, p, "started", ready)
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	for _, c := range []struct{ name, acts, python, want string }{
		{"package", "no package", "", "Python package requests is missing"},
		{"library", "no library", "", "libgomp.so.1 is missing"},
		{"python", "well", "/nowhere/python", "no Python at /nowhere/python"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, c.acts, func(cfg *comfyui.Config) {
				if c.python != "" {
					cfg.Python = c.python
				}
			})
			s := until(t, p, "a crash loop", func(s comfyui.State) bool { return s.Phase == comfyui.Looping })
			if !strings.Contains(s.Problem, c.want) {
				t.Errorf("it says %q, want %q", s.Problem, c.want)
			}
		})
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	p := start(t, "well", func(c *comfyui.Config) { c.Port = port })
	s := until(t, p, "a problem", func(s comfyui.State) bool { return s.Problem != "" })
	if !strings.Contains(s.Problem, fmt.Sprintf("port %d is taken", port)) {
		t.Errorf("it says %q", s.Problem)
	}
}

func TestWorkerRestartLoopEvery30Seconds(t *testing.T) { // predecessor 9: a slow start is no failure
	p := start(t, "slow", nil)
	until(t, p, "importing", func(s comfyui.State) bool { return s.Phase == comfyui.Importing })
	if s := until(t, p, "ready", ready); s.Starts != 1 {
		t.Errorf("started %d times", s.Starts)
	}
}

func TestModelsThatComfyUIDoesNotListAreNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"checkpoints/a.safetensors", "checkpoints/sub/b.safetensors", "checkpoints/readme.txt", "loras/c.safetensors", "odd/x.safetensors"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, "well", func(c *comfyui.Config) { c.ModelDirs = []string{dir} })
	s := until(t, p, "the check", func(s comfyui.State) bool { return s.Unlisted != "" })
	if !strings.Contains(s.Unlisted, "1 of 4") || !strings.Contains(s.Unlisted, "loras/c.safetensors") {
		t.Errorf("it says %q", s.Unlisted)
	}
}

func TestOldFolderNamesMeanTheNewOnes(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"unet", "diffusion_models", "clip", ".cache"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	got, err := comfyui.ModelFolders(dir)
	if err != nil || len(got) != 2 || strings.Join(got["diffusion_models"], " ") != "diffusion_models unet" || strings.Join(got["text_encoders"], " ") != "clip" {
		t.Errorf("%v, %v", got, err)
	}
}
