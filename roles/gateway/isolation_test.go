package gateway_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
)

// class says to whom a route answers what.
type class int

const (
	unclassified class = iota
	own                // the caller's things, and nobody else's
	acts               // changes the caller's things, and nobody else's
	shared             // the same for everybody who is signed in
	refused            // nobody, and everybody alike
	free               // needs no sign-in and names nobody
	desk               // the instructor only
)

// rule is the class of a route, and where an owner finds something of theirs.
type rule struct {
	class class
	finds func(b belongings) []string
}

// law is what every route must be. A route that stands not in it fails the test:
// who adds one says here whose it is.
var law = map[string]rule{
	"GET /": {shared, nil}, "GET /ws": {shared, nil}, "GET /{rest...}": {shared, nil}, "GET /favicon.ico": {shared, nil},
	"GET /user.css": {own, at("/user.css", "/api/user.css")},
	"GET /users":    {shared, nil}, "POST /users": {refused, nil},
	"GET /system_stats": {shared, nil}, "GET /features": {shared, nil},

	"GET /settings":      {own, at("/api/settings")},
	"GET /settings/{id}": {own, func(b belongings) []string { return []string{"/api/settings/" + b.setting} }},
	"POST /settings":     {acts, nil}, "POST /settings/{id}": {acts, nil},

	"GET /userdata":         {own, at("/api/userdata?dir=workflows&recurse=true&full_info=true", "/userdata?dir=workflows&split=true&recurse=true")},
	"GET /v2/userdata":      {own, at("/api/v2/userdata", "/v2/userdata?path=workflows")},
	"GET /userdata/{file}":  {own, func(b belongings) []string { return []string{"/api/userdata/workflows%2F" + b.doc} }},
	"POST /userdata/{file}": {acts, nil}, "DELETE /userdata/{file}": {acts, nil}, "POST /userdata/{file}/move/{dest}": {acts, nil},

	"GET /prompt": {own, at("/api/prompt")}, "POST /prompt": {acts, nil},
	"GET /queue": {own, at("/api/queue")}, "POST /queue": {acts, nil}, "POST /interrupt": {acts, nil}, "POST /free": {acts, nil},
	"GET /history": {own, at("/api/history", "/history?max_items=9&offset=0")}, "POST /history": {acts, nil},
	"GET /history/{id}": {own, func(b belongings) []string { return []string{"/api/history/" + b.ended} }},
	"GET /jobs": {own, func(b belongings) []string {
		return []string{"/api/jobs", "/jobs?status=completed,in_progress,pending,failed,cancelled", "/api/jobs?workflow_id=" + b.wf}
	}},
	"GET /jobs/{id}": {own, func(b belongings) []string {
		return []string{"/api/jobs/" + b.ended, "/api/jobs/" + b.waiting, "/api/jobs/" + b.running}
	}},
	"POST /jobs/cancel": {acts, nil}, "POST /jobs/{id}/cancel": {acts, nil},

	"GET /view": {own, views}, "HEAD /view": {own, views},
	"POST /upload/image": {acts, nil}, "POST /upload/mask": {acts, nil},

	"GET /object_info": {own, at("/api/object_info")}, "GET /object_info/{class}": {own, at("/object_info/LoadImage", "/api/object_info/LoadFromOutput")},
	"GET /embeddings": {shared, nil}, "GET /models": {shared, nil}, "GET /models/{folder}": {shared, nil},
	"GET /experiment/models": {shared, nil}, "GET /experiment/models/{folder}": {shared, nil}, "GET /experiment/models/preview/{rest...}": {shared, nil},
	"GET /view_metadata/{folder}": {shared, nil}, "GET /extensions": {shared, nil}, "GET /i18n": {shared, nil},
	"GET /global_subgraphs": {shared, nil}, "GET /global_subgraphs/{id}": {shared, nil}, "GET /node_replacements": {shared, nil},
	"GET /workflow_templates": {shared, nil}, "GET /api/workflow_templates/{pack}/{file}": {shared, nil}, "GET /templates/{file...}": {shared, nil}, "GET /docs/{file...}": {shared, nil}, "GET /workshop/templates": {shared, nil}, "GET /workshop/waiting": {own, at("/workshop/waiting")}, "GET /workshop/files": {own, at("/workshop/files")}, "POST /workshop/files": {acts, nil}, "GET /workshop/queue": {own, at("/api/workshop/queue")},

	"GET /internal/logs": {shared, nil}, "GET /internal/logs/raw": {shared, nil}, "PATCH /internal/logs/subscribe": {acts, nil}, "GET /internal/folder_paths": {shared, nil},
	"GET /internal/files/{type}": {own, at("/internal/files/input", "/internal/files/output", "/internal/files/temp")},

	"GET /api/assets": {refused, nil}, "POST /api/assets": {refused, nil}, "GET /api/tags": {refused, nil},
	"GET /api/assets/{rest...}": {refused, nil}, "POST /api/assets/{rest...}": {refused, nil}, "HEAD /api/assets/{rest...}": {refused, nil},
	"PUT /api/assets/{rest...}": {refused, nil}, "PATCH /api/assets/{rest...}": {refused, nil}, "DELETE /api/assets/{rest...}": {refused, nil},
	"GET /manager/{rest...}": {refused, nil}, "POST /manager/{rest...}": {refused, nil}, "GET /v2/manager/{rest...}": {refused, nil}, "POST /v2/manager/{rest...}": {refused, nil},
	"GET /v2/customnode/{rest...}": {refused, nil}, "POST /v2/customnode/{rest...}": {refused, nil}, "GET /v2/snapshot/{rest...}": {refused, nil}, "POST /v2/snapshot/{rest...}": {refused, nil},
	"GET /customnode/{rest...}": {refused, nil}, "POST /customnode/{rest...}": {refused, nil}, "GET /snapshot/{rest...}": {refused, nil}, "POST /snapshot/{rest...}": {refused, nil},
	"GET /externalmodel/{rest...}": {refused, nil}, "POST /externalmodel/{rest...}": {refused, nil},

	"GET /healthz": {free, nil}, "GET /health": {free, nil}, "GET /api/queue/status": {free, nil}, "GET /robots.txt": {free, nil},
	"GET /login": {free, nil}, "POST /login": {free, nil}, "GET /logout": {free, nil}, "POST /logout": {free, nil},
	"GET /admin/{rest...}": {desk, nil}, "POST /admin/{rest...}": {desk, nil},
}

// at is for things that stand at the same address for everybody.
func at(targets ...string) func(belongings) []string {
	return func(belongings) []string { return targets }
}

func views(b belongings) (out []string) {
	for area, name := range map[string]string{"input": b.input, "output": b.output, "temp": b.temp} {
		out = append(out, "/api/view?type="+area+"&filename="+name, "/view?filename="+name+"+["+area+"]")
	}
	slices.Sort(out)
	return out
}

// fill makes addresses of a pattern, with a person's names in its places.
func fill(pattern string, b belongings) []string {
	places := []struct {
		place string
		names []string
	}{
		{"{file}", []string{"workflows%2F" + b.doc, b.doc}},
		{"{dest}", []string{"workflows%2Fstolen.json"}},
		{"{id}", []string{b.ended, b.waiting, b.running, b.setting}},
		{"{folder}", []string{"checkpoints"}},
		{"{class}", []string{"LoadImage", "LoadFromOutput"}},
		{"{type}", []string{"input", "output", "temp"}},
		{"{pack}", []string{"workshop"}},
		{"{rest...}", []string{b.input, "", "api/status", "api/do", "assets/app-AbCd1234.js", "../" + string(b.user) + "/api/queue"}},
		{"{file...}", []string{"index.json"}},
	}
	out := []string{pattern}
	for _, p := range places {
		var next []string
		for _, path := range out {
			for _, n := range p.names {
				next = append(next, strings.Replace(path, p.place, n, 1))
			}
		}
		slices.Sort(next)
		out = slices.Compact(next)
	}
	dir := "../" + string(b.user)
	switch pattern {
	case "/view":
		for _, area := range []string{"input", "output", "temp"} {
			out = append(out, "/view?type="+area+"&filename="+dir+"/"+area+"/"+b.input, "/view?type="+area+"&filename="+b.input+"&subfolder=../"+dir)
		}
	case "/userdata":
		out = append(out, "/userdata?dir="+dir+"/workflows", "/userdata?dir="+url.QueryEscape(dir)+"&recurse=true")
	case "/v2/userdata":
		out = append(out, "/v2/userdata?path="+dir)
	case "/jobs":
		out = append(out, "/jobs?workflow_id="+b.wf)
	}
	return out
}

// trial is one request of somebody who is not the owner.
type trial struct {
	ask
	status int // that the door must give, 0 = what is the asker's own
}

// court tries a world: ann, who is signed in, and strangers say the names of
// bob's things; bob, cat and eve go on with their own.
type court struct {
	t         *testing.T
	w         *world
	victim    belongings
	owners    []belongings
	annsPass  string // a session of hers
	dan       shut   // who was shut out
	link      string // of bob, whose time is over
	forged    string // bob's session with another letter
	turn      int    // of strangers in a short trial
	via       func(*line, ask) (answer, error)
	requests  atomic.Int64
	leaks     atomic.Int64
	ownerOK   atomic.Int64
	complains atomic.Int64
}

const (
	cat = cluster.User("user003")
	eve = cluster.User("user004")
	dan = cluster.User("user005")
)

func newCourt(t *testing.T) *court {
	t.Helper()
	dashboard := "desk of " + canary()
	c := &court{t: t, via: (*line).ask}
	c.w = open(t, options{visited: true, admin: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(dashboard)) })})
	for _, u := range []cluster.User{cat, eve, dan} {
		c.w.do(&people.Put{Name: u, Hash: hashOf(right + " of " + string(u))}, &people.Visit{Name: u})
	}
	for _, u := range []cluster.User{bob, cat, eve, dan} {
		c.owners = append(c.owners, c.w.settle(u))
	}
	c.owners = append(c.owners, belongings{user: boss, named: dashboard, inside: dashboard})
	c.victim = c.owners[0]
	c.annsPass = c.w.session(ann)
	good := c.w.session(bob)
	c.forged = good[:len(good)-2] + map[bool]string{true: "A", false: "B"}[good[len(good)-2] != 'A'] + good[len(good)-1:]
	c.dan = c.w.shutOut(dan)
	var err error
	if c.link, _, err = c.w.sign.NewLink(t.Context(), bob, time.Minute); err != nil {
		t.Fatal(err)
	}
	c.w.later.Store(int64(2 * time.Minute))
	return c
}

// trials are all requests of all strangers to a route, with the names of b.
func (c *court) trials(route string, b belongings) (out []trial) {
	method, pattern, _ := strings.Cut(route, " ")
	r := law[route]
	paths := fill(pattern, b)
	if r.finds != nil {
		paths = append(paths, r.finds(b)...)
	}
	for _, p := range paths {
		out = append(out, c.asked(r.class, p)...)
		if (r.class == own || r.class == acts) && !strings.HasPrefix(p, "/api/") { // who may ask is settled before the path is looked at
			out = append(out, trial{ask{user: ann, target: "/api" + p}, 0}, trial{ask{target: "/api" + p}, 401}, trial{ask{user: ann, target: "/" + string(bob) + "/api" + p}, 403})
		}
	}
	if storms() == 0 { // a shorter trial: of those who are nobody, each path has a few
		out = slices.DeleteFunc(out, func(q trial) bool { c.turn++; return q.status == 401 && c.turn%5 != 0 })
	}
	for i := range out {
		q := &out[i].ask
		q.method = method
		if method != "GET" && method != "HEAD" {
			q.body = payload(b)
		}
	}
	return out
}

// payload names somebody's things in every way a body can.
func payload(b belongings) string {
	return fmt.Sprintf(`{"delete":[%q,%q,%q],"clear":true,"job_ids":[%[1]q,%[2]q,%[3]q],"prompt_id":%[3]q,"client_id":"tab","username":%q,"filename":%q,"prompt":%s}`,
		b.ended, b.waiting, b.running, b.user, b.input, `{"1":{"class_type":"LoadImage","inputs":{"image":"`+b.input+`"}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}`)
}

func (c *court) asked(k class, p string) []trial {
	bobs := "/" + string(bob) + p
	nobody := []trial{
		{ask{target: p}, 401},
		{ask{user: bob, pass: "guess", target: p}, 401},
		{ask{user: dan, target: p}, 401},
		{ask{target: p, header: []string{"Cookie: comfyume=" + c.dan.session}}, 401},
		{ask{target: p, header: []string{"Cookie: comfyume=" + c.dan.ended}}, 401},
		{ask{target: p, header: []string{"Authorization: Bearer " + c.dan.token}}, 401},
		{ask{target: p, header: []string{"Cookie: comfyume=" + c.dan.spent}}, 401},
		{ask{target: p, header: []string{"Authorization: Bearer " + c.link}}, 401},
		{ask{target: p, header: []string{"Cookie: comfyume=" + c.link}}, 401},
		{ask{target: p, header: []string{"Cookie: comfyume=" + c.forged}}, 401},
	}
	switch k {
	case free:
		for i := range nobody {
			nobody[i].status = 0
		}
		return append(nobody, trial{ask{user: ann, target: p}, 0}, trial{ask{target: p + "?link=" + c.link}, 0}, trial{ask{target: p + "?link=" + c.dan.spent}, 0})
	case desk:
		return append(nobody, trial{ask{user: ann, target: p}, 403}, trial{ask{target: p, header: []string{"Cookie: comfyume=" + c.annsPass}}, 403})
	}
	return append(nobody,
		trial{ask{target: bobs}, 401},
		trial{ask{user: bob, pass: "guess", target: bobs}, 401},
		trial{ask{user: dan, target: "/" + string(dan) + p}, 401},
		trial{ask{user: ann, target: bobs}, 403},
		trial{ask{user: ann, target: bobs, header: []string{"Comfy-User: " + string(bob)}}, 403},
		trial{ask{target: bobs, header: []string{"Cookie: comfyume=" + c.annsPass}}, 403},
		trial{ask{user: boss, target: bobs}, 403},
		trial{ask{user: boss, target: p}, 403},
		trial{ask{user: ann, target: p}, 0},
		trial{ask{user: ann, target: "/" + string(ann) + p, header: []string{"Comfy-User: " + string(bob)}}, 0},
		trial{ask{target: p, header: []string{"Cookie: comfyume=" + c.annsPass + "; comfyume_person=" + string(bob)}}, 0},
	)
}

// judge looks at an answer to somebody who owns nothing of what was asked for.
func (c *court) judge(q trial, a answer) {
	text := a.body + fmt.Sprint(a.header)
	said := q.target + q.body
	for _, b := range c.owners {
		if strings.Contains(text, b.inside) || strings.Contains(text, b.named) && !strings.Contains(said, b.named) && q.user != ann && !strings.Contains(fmt.Sprint(q.header), c.annsPass) {
			c.leak("%s %s as %q %q shows what is %s's: %.200s", q.method, q.target, q.user, q.header, b.user, text)
		}
	}
	path, _, _ := strings.Cut(q.target, "?")
	landing := path == "/" && (q.user == "" && a.status == 200 || q.user == boss && a.status == 302)
	insane := strings.Contains(path, "/../") && a.status == 400
	if q.status != 0 && a.status != q.status && !landing && !insane {
		c.leak("%s %s as %q %q: status %d, want %d: %.200s", q.method, q.target, q.user, q.header, a.status, q.status, a.body)
	}
}

func (c *court) leak(format string, args ...any) {
	c.leaks.Add(1)
	if c.complains.Add(1) < 20 {
		c.t.Logf(format, args...)
	}
}

func (c *court) send(l *line, q ask) answer {
	a, err := c.via(l, q)
	if err != nil {
		c.t.Errorf("%s %s: %v", q.method, q.target, err)
	}
	return a
}

var varying = regexp.MustCompile(`Error id [0-9a-f]+|"number": ?\d+|"modified": ?\d+|"created": ?\d+|Etag:\[[^]]*\]`)

// same compares what is answered for a foreign name and for one of nothing.
func (c *court) same(q trial, foreign, absent answer, mark, none string) {
	plain := func(a answer, from string) string {
		h := a.header.Clone()
		for _, k := range []string{"Date", "Set-Cookie", "Content-Length"} {
			h.Del(k)
		}
		return varying.ReplaceAllString(strings.ReplaceAll(fmt.Sprintf("%d %v %s", a.status, h, a.body), from, "NAME"), "")
	}
	if f, n := plain(foreign, mark), plain(absent, none); f != n {
		c.leak("%s %s as %q tells that it exists:\n%.300s\n%.300s", q.method, q.target, q.user, f, n)
	}
}

// pairs tries every route once with the names of bob's things and once with
// names of nothing: whether a thing of another's exists must not show.
func (c *court) pairs(routes []string) (all []trial) {
	l := &line{w: c.w}
	defer l.hangUp()
	none := "n" + canary()
	for _, route := range routes {
		for _, q := range c.trials(route, c.victim) {
			foreign := c.send(l, q.ask)
			c.judge(q, foreign)
			c.requests.Add(1)
			all = append(all, q)
			if said := q.target + q.body; !strings.Contains(said, c.victim.named) {
				continue
			}
			q.target, q.body = strings.ReplaceAll(q.target, c.victim.named, none), strings.ReplaceAll(q.body, c.victim.named, none)
			c.same(q, foreign, c.send(l, q.ask), c.victim.named, none)
			c.requests.Add(1)
		}
	}
	return all
}

// belongs is what an owner reads of theirs, by address.
func (c *court) belongs(b belongings) map[string]string {
	l := &line{w: c.w}
	defer l.hangUp()
	out := map[string]string{}
	for route, r := range law {
		if r.finds == nil {
			continue
		}
		method, _, _ := strings.Cut(route, " ")
		for _, target := range r.finds(b) {
			a := c.send(l, ask{user: b.user, method: method, target: target})
			text := a.body + fmt.Sprint(a.header)
			if a.status != 200 || !strings.Contains(text, b.named) && !strings.Contains(text, b.inside) && !strings.Contains(a.body, `"queue_remaining":2`) {
				c.t.Errorf("%s finds nothing of theirs at %s %s: %d %.200s", b.user, method, target, a.status, a.body)
			}
			out[method+" "+target] = a.body
		}
	}
	return out
}

// storm sends trials at random and what owners ask beside them, until there were
// n of each.
func (c *court) storm(all []trial, n int64) {
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			l := &line{w: c.w}
			defer l.hangUp()
			for c.requests.Add(1) <= n {
				q := all[rand.IntN(len(all))]
				c.judge(q, c.send(l, q.ask))
			}
			c.requests.Add(-1)
		})
	}
	var asked atomic.Int64
	reads := map[cluster.User]map[string]string{}
	var targets [][2]string // whose, and what
	for _, b := range c.owners[:3] {
		reads[b.user] = c.belongs(b)
		for target := range reads[b.user] {
			targets = append(targets, [2]string{string(b.user), target})
		}
	}
	for range 2 {
		wg.Go(func() {
			l := &line{w: c.w}
			defer l.hangUp()
			for i := asked.Add(1); i <= n; i = asked.Add(1) {
				who := targets[int(i)%len(targets)]
				method, target, _ := strings.Cut(who[1], " ")
				a := c.send(l, ask{user: cluster.User(who[0]), method: method, target: target})
				if want := reads[cluster.User(who[0])][who[1]]; a.status == 200 && a.body == want {
					c.ownerOK.Add(1)
				} else if c.complains.Add(1) < 20 {
					c.t.Errorf("%s at %s: %d %.200s, want %.200s", who[0], who[1], a.status, a.body, want)
				}
			}
		})
	}
	wg.Wait()
}

// storms is how many requests strangers, and owners, send: COMFYUME_STORM, at
// least as many as one pass over everything takes. 0 is a short pass.
func storms() int64 {
	if n, err := strconv.ParseInt(os.Getenv("COMFYUME_STORM"), 10, 64); err == nil {
		return n
	}
	return 0
}

// Every route that there is, tried by every kind of stranger: nobody reads or
// changes what is another's, nor learns whether it exists, and the owners have
// all of theirs all the while.
func TestNobodyReachesAnothersThings(t *testing.T) {
	c := newCourt(t)
	pages := map[cluster.User]*page{}
	for _, u := range []cluster.User{ann, bob, cat} {
		pages[u] = c.w.page(u, "tab") // the id survives in a browser's tab
	}
	routes, unclassifiedRoutes := c.w.gw.Routes(), 0
	for _, route := range routes {
		if law[route].class == unclassified {
			unclassifiedRoutes++
			t.Errorf("%s is not classified: say in law whose it is", route)
		}
	}
	for route, r := range law {
		if !slices.Contains(routes, route) {
			t.Errorf("there is no route %s any more", route)
		}
		if (r.class == own) != (r.finds != nil) {
			t.Errorf("%s: where does an owner find something of theirs?", route)
		}
	}
	before := map[cluster.User]map[string]string{}
	for _, b := range c.owners[:3] {
		before[b.user] = c.belongs(b)
	}
	c.alike(routes)
	all := c.pairs(routes)
	c.storm(all, max(storms(), c.requests.Load()))
	for _, b := range c.owners[:3] {
		for target, body := range c.belongs(b) {
			if before[b.user][target] != body {
				t.Errorf("%s's %s changed: %.200s, was %.200s", b.user, target, body, before[b.user][target])
			}
		}
		for id, want := range map[string]jobs.State{b.ended: jobs.Done, b.waiting: jobs.Pending, b.running: jobs.Running} {
			if got := c.w.job(b.user, id).State; got != want {
				t.Errorf("%s's job %s is %s", b.user, id, got)
			}
		}
	}
	c.frames(pages)
	raw, err := json.Marshal(c.w.gw.Problems()[ann])
	if err != nil || strings.Contains(string(raw), c.victim.inside) {
		t.Errorf("problems: %s %v", raw, err)
	}
	if logged := c.w.logged.String(); strings.Contains(logged, c.victim.inside) {
		t.Error("the log has what is bob's")
	}
	if n := c.leaks.Load(); n > 0 {
		t.Errorf("%d leaks", n)
	}
	fmt.Printf("isolation requests=%d leaks=%d owner_ok=%d routes=%d unclassified=%d\n", c.requests.Load(), c.leaks.Load(), c.ownerOK.Load(), len(routes), unclassifiedRoutes)
	if c.ownerOK.Load() < c.requests.Load() {
		t.Errorf("of %d requests of owners %d were right", c.requests.Load(), c.ownerOK.Load())
	}
}

// alike compares what is the same for everybody, or refused to everybody.
func (c *court) alike(routes []string) {
	for _, route := range routes {
		r := law[route].class
		if r != shared && r != refused {
			continue
		}
		method, pattern, _ := strings.Cut(route, " ")
		for _, p := range fill(pattern, c.victim) {
			a, b := c.w.ask(ask{user: ann, method: method, target: p}), c.w.ask(ask{user: bob, method: method, target: p})
			if a.status != b.status || varying.ReplaceAllString(a.body, "") != varying.ReplaceAllString(b.body, "") {
				c.leak("%s %s: %d %.200s for ann, %d %.200s for bob", method, p, a.status, a.body, b.status, b.body)
			}
			if r == refused && a.status < 400 {
				c.t.Errorf("%s %s is not refused: %d", method, p, a.status)
			}
		}
	}
}

// frames looks at what the open pages heard: bob's job spoke to bob's only.
func (c *court) frames(pages map[cluster.User]*page) {
	b := c.victim
	b.running = b.named + "-late"
	c.w.submit(bob, "tab", b.running)
	s := c.w.assign(bob, b.running).begin()
	playFrames(s, b)
	for _, u := range []cluster.User{cat, ann} {
		c.w.submit(u, "tab", "end-of-"+string(u))
		playMarked(c.w, u, "end-of-"+string(u), "end", 0)
		pages[u].waitFor("executing end-of-" + string(u) + " null")
	}
	pages[bob].waitFor("executing " + b.running + " " + b.inside)
	for u, p := range pages {
		text := ""
		for _, h := range p.all() {
			text += string(h.m.Data) + string(h.bin) + "\n"
		}
		for _, o := range c.owners {
			if has := strings.Contains(text, o.inside) || strings.Contains(text, o.named); has && u != o.user {
				c.leak("a frame of %s's came to %s", o.user, u)
			}
		}
		if u == bob && !strings.Contains(text, b.inside) {
			c.t.Error("bob's page does not hear of his job")
		}
	}
}

// Two leaks are planted between the door and the court: an answer that was
// another's, and one that tells that a thing exists. Both must be seen.
func TestLeaksAreSeen(t *testing.T) {
	for name, plant := range map[string]func(c *court, l *line, q ask) (answer, error){
		"another's file": func(c *court, l *line, q ask) (answer, error) {
			if q.user == ann && q.method == "GET" && strings.HasPrefix(q.target, "/view?filename="+c.victim.input) {
				q.user = bob
			}
			return l.ask(q)
		},
		"that it exists": func(c *court, l *line, q ask) (answer, error) {
			a, err := l.ask(q)
			if q.user == ann && q.target == "/jobs/"+c.victim.ended {
				a.status = 403
			}
			return a, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCourt(t)
			c.via = func(l *line, q ask) (answer, error) { return plant(c, l, q) }
			c.pairs([]string{"GET /view", "GET /jobs/{id}"})
			if c.leaks.Load() == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}
