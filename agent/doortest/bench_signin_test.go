package doortest_test

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/ahelme/comfyume/agent/doortest"
)

// A class: as many as load the page at once, and as many connections as a
// browser opens for each.
const (
	classSize = 20
	perPage   = 6
)

// classUser is the nth of the class; the first two are everybody's.
func classUser(n int) (name, password string) {
	name = fmt.Sprintf("user%03d", n+1)
	return name, map[int]string{0: "secret-one", 1: "secret-two"}[n] + map[bool]string{true: "pw-" + name}[n > 1]
}

// startClass starts an agent with accounts for a class.
func startClass(t *testing.T, args ...string) *doortest.Agent {
	t.Helper()
	var env []string
	for n := 2; n < classSize; n++ {
		name, password := classUser(n)
		env = append(env, fmt.Sprintf("USER_CREDENTIALS_%s=%s:%s", strings.ToUpper(name), name, password))
	}
	return doortest.Start(t, doortest.Options{Args: args, Env: env})
}

func basicOf(n int) string {
	name, password := classUser(n)
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// line is one connection, without what a client library would cost the machine
// that serves as well.
type line struct {
	net.Conn
	r *bufio.Reader
}

func dialLine(addr string) (*line, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &line{conn, bufio.NewReaderSize(conn, 64<<10)}, nil
}

// get asks for a path and drops the body; n are its bytes.
func (l *line) get(path, host string, header ...string) (status int, n int64, err error) {
	if err := l.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return 0, 0, err
	}
	request := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nAccept-Encoding: gzip\r\n" + strings.Join(header, "\r\n")
	if len(header) > 0 {
		request += "\r\n"
	}
	if _, err := io.WriteString(l, request+"\r\n"); err != nil {
		return 0, 0, err
	}
	head := textproto.NewReader(l.r)
	first, err := head.ReadLine()
	if err != nil {
		return 0, 0, err
	}
	if f := strings.Fields(first); len(f) > 1 {
		status, _ = strconv.Atoi(f[1])
	}
	fields, err := head.ReadMIMEHeader()
	if err != nil {
		return status, 0, err
	}
	if n, err = strconv.ParseInt(fields.Get("Content-Length"), 10, 64); err != nil {
		return status, 0, errors.New("an answer without its length")
	}
	_, err = io.CopyN(io.Discard, l.r, n)
	return status, n, err
}

// storm has the whole class load the page at once and returns how long it took
// until everybody had everything, and the bytes. prefix and header are of the nth.
func storm(t *testing.T, addr string, files []string, prefix func(n int) string, header func(n int) []string) (took time.Duration, bytes int64) {
	t.Helper()
	var all sync.WaitGroup
	var sum atomic.Int64
	lines := make([][]*line, classSize)
	for n := range lines {
		for range perPage {
			l, err := dialLine(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			lines[n] = append(lines[n], l)
		}
	}
	begin := time.Now()
	for n := range classSize {
		var next atomic.Int64
		for _, l := range lines[n] {
			all.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(files) {
						return
					}
					status, got, err := l.get(prefix(n)+files[i], "door.test", header(n)...)
					if err != nil || status != 200 {
						t.Errorf("%s: %d, %v", files[i], status, err)
						return
					}
					sum.Add(got)
				}
			})
		}
	}
	all.Wait()
	return time.Since(begin), sum.Load()
}

// peer is nginx on this machine: with gzip_static on a folder without sign-in and
// with bcrypt at every request, and as a proxy of what it serves itself. All
// addresses are "" where there is none.
type peer struct {
	open, asking, proxy string
	pid                 int
}

func startNginx(t *testing.T, root, htpasswd string) (p peer) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		fmt.Println("nginx found=no cure=apt-get_install_nginx-light_to_compare_with_it")
		return peer{}
	}
	p = peer{open: doortest.FreeAddr(t), asking: doortest.FreeAddr(t), proxy: doortest.FreeAddr(t)}
	dir := t.TempDir()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // the folders of tests are this user's alone
	}
	conf := fmt.Sprintf(`daemon off; %sworker_processes auto; pid %[2]s/pid; error_log %[2]s/errors;
events { worker_connections 1024; }
http {
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000; gzip_static on;
  client_body_temp_path %[2]s/b; proxy_temp_path %[2]s/p; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
  types { text/html html; text/javascript js; text/css css; application/json json; font/woff2 woff2; image/png png; }
  server { listen %[3]s; root %[5]s; }
  server { listen %[4]s; root %[5]s; auth_basic "x"; auth_basic_user_file %[6]s; }
  upstream self { server %[3]s; keepalive 64; }
  server { listen %[7]s; location / { proxy_pass http://self; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}`, user, dir, p.open, p.asking, root, htpasswd, p.proxy)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-p", dir, "-c", file, "-e", filepath.Join(dir, "errors"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	doortest.Until(t, 10*time.Second, "nginx answers", func() bool {
		c, err := net.Dial("tcp", p.open)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return p
}

// pageFiles are what the stock frontend's page asks for on a first visit besides
// the API, as a browser's own list of the page's resources says
// (performance.getEntriesByType("resource")).
func pageFiles(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("testdata/pageload-1.37.11.txt")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(raw))
}

// mirror copies the files that the agent serves, with their packed twins, to
// where nginx finds them.
func mirror(t *testing.T, a *doortest.Agent, files []string) (root string) {
	t.Helper()
	trees, err := filepath.Glob(filepath.Join(a.StateDir, "frontend", "1.37.11-*", "static"))
	if err != nil || len(trees) != 1 {
		t.Fatalf("the unpacked frontend: %v, %v", trees, err)
	}
	root = t.TempDir()
	for _, f := range files {
		if f == "/" {
			f = "/index.html"
		}
		for _, twin := range []string{"", ".gz"} {
			raw, err := os.ReadFile(trees[0] + f + twin)
			if errors.Is(err, os.ErrNotExist) && twin != "" {
				continue
			}
			if err != nil {
				t.Fatalf("this list is of another build of the frontend: %v", err)
			}
			if err := os.MkdirAll(filepath.Dir(root+f), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+f+twin, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// TestBenchPageStorm has a class load the page at once: from nginx without
// sign-in and with bcrypt, and from the door with sign-in on, when it knows
// nobody (right after a start), when people come with the sessions of before a
// restart, and when it knows them.
func TestBenchPageStorm(t *testing.T) {
	benchOnly(t)
	const rounds = 15
	a := startClass(t)
	files := pageFiles(t)
	addr := strings.TrimPrefix(a.URL, "http://")
	var htpasswd strings.Builder
	cookies := make([]string, classSize)
	for n := range classSize {
		name, password := classUser(n)
		hash, err := bcrypt.GenerateFromPassword([]byte(password), 10)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&htpasswd, "%s:%s\n", name, hash)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, []byte(htpasswd.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	nginx := startNginx(t, mirror(t, a, files), users)
	none := func(int) []string { return nil }
	basic := func(n int) []string { return []string{basicOf(n)} }
	own := func(n int) string { name, _ := classUser(n); return "/" + name }
	root := func(int) string { return "" }

	// The first visit notes that it was one; that is no page load.
	for n := range classSize {
		name, password := classUser(n)
		c := &doortest.Client{Base: a.URL + "/" + name, User: name, Pass: password}
		if code, _, _, err := c.Do("GET", "/api/workflow_templates/workshop/first_picture.json", nil); err != nil || code != 200 {
			t.Fatalf("%s: %d, %v", name, code, err)
		}
		jar := visitor(t)
		resp, err := jar.PostForm(a.URL+"/login", url.Values{"name": {name}, "password": {password}})
		if got := status(t, resp, err); got != http.StatusSeeOther {
			t.Fatalf("%s signs in: %d", name, got)
		}
		cookies[n] = "Cookie: " + strings.Split(resp.Header.Get("Set-Cookie"), ";")[0]
	}
	session := func(n int) []string { return []string{cookies[n]} }
	again := func() {
		a.Stop(t)
		a.Launch(t)
		a.Ready(t, time.Minute)
	}

	bytes := map[int64]string{}
	before := spent(t)
	one := func(what, addr string, prefix func(int) string, header func(int) []string) float64 {
		took, n := storm(t, addr, files, prefix, header)
		if bytes[n] = what; len(bytes) > 1 {
			t.Errorf("not all have served the same bytes: %v", bytes)
		}
		return ms(took)
	}
	again()
	cold := one("cold password", addr, own, basic)
	again()
	restart := one("cold session", addr, own, session)
	var warms, sessions, opens []float64
	for range rounds { // turn by turn: the machine is not always equally busy
		if nginx.open != "" {
			opens = append(opens, one("nginx", nginx.open, root, none))
		}
		warms, sessions = append(warms, one("password", addr, own, basic)), append(sessions, one("session", addr, own, session))
	}
	warm, known, requests := at(warms, 50), at(sessions, 50), float64(classSize*len(files))
	var mb float64
	for n := range bytes {
		mb = float64(n) / 1e6
	}
	fmt.Printf("storm users=%d requests=%d mb=%.0f cold_password_ms=%.0f cold_session_ms=%.0f warm_password_ms=%.0f warm_session_ms=%.0f rps=%.0f others_cores=%.2f\n",
		classSize, int(requests), mb, cold, restart, warm, known, requests/known*1000, before.others(t))
	if nginx.open == "" {
		return
	}
	open, asked := at(opens, 50), one("nginx with bcrypt", nginx.asking, root, basic)
	fmt.Printf("storm_nginx open_ms=%.0f bcrypt_ms=%.0f rps=%.0f ours/open=%.2f bcrypt/ours_cold=%.0f goal=1.00\n", open, asked, requests/open*1000, open/known, asked/cold)
}

// rate is how many answers a second a number of connections get that ask for one
// thing again and again.
func rate(t *testing.T, addr, path string, header []string, conns int, within time.Duration) float64 {
	t.Helper()
	var all sync.WaitGroup
	var count atomic.Int64
	begin := time.Now()
	for range conns {
		all.Go(func() {
			l, err := dialLine(addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			for time.Since(begin) < within {
				if status, _, err := l.get(path, "door.test", header...); err != nil || status != 200 {
					t.Errorf("%s: %d, %v", path, status, err)
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	return float64(count.Load()) / time.Since(begin).Seconds()
}

// TestBenchRequests measures one file of the page and one answer of the API of
// about a kilobyte, asked for with the session of somebody who is signed in,
// beside nginx without sign-in: the same file, and the same answer through its
// proxy, from itself.
func TestBenchRequests(t *testing.T) {
	benchOnly(t)
	const conns, rounds, within = 16, 5, time.Second
	a := startClass(t)
	addr := strings.TrimPrefix(a.URL, "http://")
	name, password := classUser(0)
	resp, err := visitor(t).PostForm(a.URL+"/login", url.Values{"name": {name}, "password": {password}})
	if got := status(t, resp, err); got != http.StatusSeeOther {
		t.Fatalf("%s signs in: %d", name, got)
	}
	session := []string{"Cookie: " + strings.Split(resp.Header.Get("Set-Cookie"), ";")[0]}
	c := &doortest.Client{Base: a.URL + "/" + name, User: name, Pass: password}
	const api, file = "/api/system_stats", "/assets/vendor-xterm-xj0gfbX3.css"
	code, _, answer, err := c.Do("GET", api, nil)
	if err != nil || code != 200 {
		t.Fatalf("%s: %d, %v", api, code, err)
	}
	root := mirror(t, a, []string{file})
	if err := os.WriteFile(filepath.Join(root, "answer.json"), answer, 0o644); err != nil {
		t.Fatal(err)
	}
	nginx := startNginx(t, root, filepath.Join(root, "nobody"))
	rates, costs := map[string][]float64{}, map[string][]float64{} // answers a second; µs of the server's processors for one
	one := func(what string, pid int, addr, path string, header []string) {
		began, cost := time.Now(), family(t, pid)
		r := rate(t, addr, path, header, conns, within)
		costs[what] = append(costs[what], (family(t, pid)-cost)/(r*time.Since(began).Seconds())*1e6)
		rates[what] = append(rates[what], r)
	}
	before := spent(t)
	for range rounds {
		one("file", a.PID(), addr, "/"+name+file, session)
		one("api", a.PID(), addr, "/"+name+api, session)
		if nginx.open != "" {
			one("nginx file", nginx.pid, nginx.open, file, nil)
			one("nginx proxy", nginx.pid, nginx.proxy, "/answer.json", nil)
		}
	}
	fmt.Printf("requests connections=%d answer_bytes=%d file_rps=%.0f file_cpu_us=%.0f api_rps=%.0f api_cpu_us=%.0f others_cores=%.2f\n",
		conns, len(answer), at(rates["file"], 50), at(costs["file"], 50), at(rates["api"], 50), at(costs["api"], 50), before.others(t))
	if nginx.open != "" {
		fmt.Printf("requests_nginx file_rps=%.0f file_cpu_us=%.0f proxy_rps=%.0f proxy_cpu_us=%.0f file_ours/nginx=%.2f api_ours/proxy=%.2f goal_file=1.0 goal_api=1.2\n",
			at(rates["nginx file"], 50), at(costs["nginx file"], 50), at(rates["nginx proxy"], 50), at(costs["nginx proxy"], 50), at(rates["file"], 50)/at(rates["nginx file"], 50), at(rates["api"], 50)/at(rates["nginx proxy"], 50))
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// probe asks for one small thing again and again and returns the times, in ms.
func probe(t *testing.T, addr, path string, header []string, n int, pause time.Duration) (times []float64) {
	t.Helper()
	l, err := dialLine(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for range n {
		<-tick.C
		begin := time.Now()
		if status, _, err := l.get(path, "door.test", header...); err != nil || status != 200 {
			t.Fatalf("%s: %d, %v", path, status, err)
		}
		times = append(times, ms(time.Since(begin)))
	}
	return times
}

// TestBenchSignInFlood measures what somebody who is signed in notices, and how
// long somebody waits who signs in for the first time, while wrong passwords come
// in from one address, from two hundred, and while the rest of the class signs in
// at once to a door that knows nobody.
func TestBenchSignInFlood(t *testing.T) {
	benchOnly(t)
	const rate, probes = 400, 400
	a := startClass(t)
	addr := strings.TrimPrefix(a.URL, "http://")
	path := func(n int) string { name, _ := classUser(n); return "/" + name + "/api/settings" }
	from := func(ip string) string { return "X-Forwarded-For: " + ip }
	first := func(n int, ip string) float64 { // of somebody whom the door does not know
		l, err := dialLine(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		begin := time.Now()
		if status, _, err := l.get(path(n), "door.test", basicOf(n), from(ip)); err != nil || status != 200 {
			t.Fatalf("user %d: %d, %v", n, status, err)
		}
		return ms(time.Since(begin))
	}
	before := spent(t)
	first(0, "192.0.2.1")
	known := []string{basicOf(0), from("192.0.2.1")}
	say := func(what string, times []float64, fresh float64, answers map[int]int) {
		fmt.Printf("flood_%s rate=%d p50_ms=%.2f p95_ms=%.2f p99_ms=%.2f first_signin_ms=%.0f answered_401=%d answered_429=%d answered_503=%d\n", what, rate, at(times, 50), at(times, 95), at(times, 99), fresh, answers[401], answers[429], answers[503])
	}
	say("none", probe(t, addr, path(0), known, probes, 5*time.Millisecond), first(1, "192.0.2.2"), nil)

	flood := func(what string, fresh int, guess func(i int) (user int, ip string)) {
		stop, answers := make(chan struct{}), map[int]int{}
		var mu sync.Mutex
		var guessers sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		var count atomic.Int64
		for range 100 {
			guessers.Go(func() {
				l, err := dialLine(addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer l.Close()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					i := int(count.Add(1))
					user, ip := guess(i)
					name, _ := classUser(user)
					wrong := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":guess"+strconv.Itoa(i)))
					status, _, err := l.get(path(user), "door.test", wrong, from(ip))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					answers[status]++
					mu.Unlock()
				}
			})
		}
		times := probe(t, addr, path(0), known, probes/2, 5*time.Millisecond)
		took := first(fresh, fmt.Sprint("192.0.2.", 10+fresh))
		times = append(times, probe(t, addr, path(0), known, probes/2, 5*time.Millisecond)...)
		close(stop)
		guessers.Wait()
		say(what, times, took, answers)
	}
	flood("one_address", 2, func(i int) (int, string) { return i % classSize, "203.0.113.9" })
	flood("200_addresses", 3, func(i int) (int, string) { return 4 + i%3, fmt.Sprint("198.51.100.", i%200) })

	a.Stop(t)
	a.Launch(t)
	a.Ready(t, time.Minute)
	first(0, "192.0.2.1")
	var class sync.WaitGroup
	waits := make([]float64, classSize)
	for n := 1; n < classSize; n++ {
		class.Go(func() { waits[n] = first(n, "192.0.2.1") })
	}
	times := probe(t, addr, path(0), known, probes, 2*time.Millisecond)
	class.Wait()
	fmt.Printf("flood_cold_class users=%d p50_ms=%.2f p95_ms=%.2f p99_ms=%.2f signin_p50_ms=%.0f signin_max_ms=%.0f others_cores=%.2f\n", classSize-1, at(times, 50), at(times, 95), at(times, 99), at(waits[1:], 50), slices.Max(waits), before.others(t))
}
