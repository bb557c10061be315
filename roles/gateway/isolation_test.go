package gateway_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// bobs are the names of what bob has; each thing's content is "secret" and its name.
var bobs = struct{ doc, input, output, temp, setting, ended, waiting, running string }{
	"bobs-doc.json", "bobs-input.png", "bobs-out_00001_.png", "bobs-temp.png", "bobs.setting", "bobs-ended", "bobs-waiting", "bobs-running",
}

// settle gives bob something of everything that the door serves.
func settle(t *testing.T, w *world) {
	t.Helper()
	w.post(bob, "/api/userdata/workflows%2F"+bobs.doc, `"secret `+bobs.doc+`"`).want(t, 200)
	w.post(bob, "/api/settings/"+bobs.setting, `"secret `+bobs.setting+`"`).want(t, 200)
	w.upload(bob, "/upload/image", part{"image", bobs.input, "secret " + bobs.input}).want(t, 200)
	w.upload(bob, "/upload/image", part{"image", bobs.temp, "secret " + bobs.temp}, part{"type", "", "temp"}).want(t, 200)
	for _, id := range []string{bobs.ended, bobs.running, bobs.waiting} {
		w.post(bob, "/prompt", `{"client_id":"bobs-client","prompt_id":"`+id+`","prompt":`+graph("secret "+id)+`,"extra_data":{"api_key_comfy_org":"secret key"}}`).want(t, 200)
	}
	s := w.assign(bob, bobs.ended).begin()
	w.do(&files.PutOutputs{User: bob, Prompt: bobs.ended, Worker: "gpu/0", Epoch: 1, Outputs: []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: bobs.output, Ref: w.put([]byte("secret " + bobs.output)), Size: 10}}})
	s.done(bobs.output)
	w.assign(bob, bobs.running).begin()
}

// own is all that bob can read, by address.
func own(w *world) map[string]string {
	out := map[string]string{}
	for _, target := range []string{
		"/api/userdata?dir=workflows&recurse=true&full_info=true", "/api/v2/userdata", "/api/userdata/workflows%2F" + bobs.doc, "/api/settings", "/api/settings/" + bobs.setting,
		"/api/queue", "/api/history", "/api/history/" + bobs.ended, "/api/jobs", "/api/jobs/" + bobs.ended, "/api/jobs/" + bobs.waiting, "/api/jobs/" + bobs.running, "/api/prompt",
		"/api/view?type=input&filename=" + bobs.input, "/api/view?type=temp&filename=" + bobs.temp, "/api/view?type=output&filename=" + bobs.output,
		"/internal/files/input", "/internal/files/output", "/internal/files/temp", "/api/object_info",
	} {
		out[target] = w.get(bob, target).want(w.t, 200).body
	}
	return out
}

// fill makes addresses of a pattern, with bob's names in its places.
func fill(pattern string) []string {
	places := map[string][]string{
		"{file}": {"workflows%2F" + bobs.doc, bobs.doc}, "{dest}": {"workflows%2Fstolen.json"}, "{id}": {bobs.ended, bobs.waiting, bobs.running, bobs.setting},
		"{folder}": {"checkpoints"}, "{class}": {"LoadImage", "LoadFromOutput"}, "{type}": {"input", "output", "temp"}, "{pack}": {"workshop"},
		"{rest...}": {bobs.input}, "{file...}": {"index.json"},
	}
	out := []string{pattern}
	for place, names := range places {
		var next []string
		for _, p := range out {
			if !strings.Contains(p, place) {
				next = append(next, p)
				continue
			}
			for _, n := range names {
				next = append(next, strings.Replace(p, place, n, 1))
			}
		}
		out = next
	}
	switch pattern {
	case "/view":
		out = nil
		for area, name := range map[string]string{"input": bobs.input, "output": bobs.output, "temp": bobs.temp} {
			out = append(out, "/view?type="+area+"&filename="+name, "/view?filename="+name+"+["+area+"]", "/view?type="+area+"&filename=../user002/"+area+"/"+name, "/view?type="+area+"&filename="+name+"&subfolder=../../user002")
		}
	case "/userdata":
		out = append(out, "/userdata?dir=workflows&recurse=true&full_info=true", "/userdata?dir=../user002/workflows")
	case "/v2/userdata":
		out = append(out, "/v2/userdata?path=workflows", "/v2/userdata?path=../user002")
	case "/jobs":
		out = append(out, "/jobs?workflow_id=x", "/jobs?status=completed,in_progress,pending,failed,cancelled")
	case "/history":
		out = append(out, "/history?max_items=100&offset=0")
	}
	return out
}

// Every route that there is, tried with everybody else's credentials: nobody
// reads or changes what is bob's, and bob still has all of it.
func TestNobodyReachesAnothersThings(t *testing.T) {
	w := open(t, options{visited: true})
	settle(t, w)
	before := own(w)
	for target, body := range before {
		if !strings.Contains(body, "bobs") && !strings.Contains(body, `"queue_remaining":2`) {
			t.Fatalf("bob himself finds nothing of his at %s: %.200s", target, body)
		}
	}
	// Ann names bob's things in every way a request can.
	payload := fmt.Sprintf(`{"delete":[%q,%q,%q],"job_ids":[%[1]q,%[2]q,%[3]q],"prompt_id":%[3]q,"client_id":"bobs-client","username":"user002","filename":%q,"prompt":%s}`,
		bobs.ended, bobs.waiting, bobs.running, bobs.input, `{"1":{"class_type":"LoadImage","inputs":{"image":"`+bobs.input+`"}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}`)
	routes := w.gw.Routes()
	if len(routes) < 60 {
		t.Fatalf("only %d routes are known", len(routes))
	}
	tried := 0
	for _, route := range routes {
		method, pattern, _ := strings.Cut(route, " ")
		for _, path := range fill(pattern) {
			tried += w.tryAll(method, path, payload)
			if !strings.HasPrefix(path, "/api/") {
				tried += w.tryAll(method, "/api"+path, payload)
			}
		}
	}
	t.Logf("%d routes, %d requests", len(routes), tried)
	after := own(w)
	for target := range before {
		if d := cmp.Diff(before[target], after[target]); d != "" {
			t.Errorf("bob's %s changed: %s", target, d)
		}
	}
	for id, want := range map[string]jobs.State{bobs.ended: jobs.Done, bobs.waiting: jobs.Pending, bobs.running: jobs.Running} {
		if got := w.job(bob, id).State; got != want {
			t.Errorf("bob's job %s is %s", id, got)
		}
	}
}

// tryAll asks for one address with every credential but bob's own.
func (w *world) tryAll(method, p, payload string) (tried int) {
	t := w.t
	t.Helper()
	for _, who := range []struct {
		ask    ask
		status int // 0 = her own answer, whatever it is
	}{
		{ask{target: p}, 401},
		{ask{target: "/user002" + p}, 401},
		{ask{user: bob, pass: "guess", target: "/user002" + p}, 401},
		{ask{user: ann, target: "/user002" + p}, 403},
		{ask{user: ann, target: "/user002" + p, header: []string{"Comfy-User: user002"}}, 403},
		{ask{user: boss, target: "/user002" + p}, 403},
		{ask{user: boss, target: p}, 403},
		{ask{user: ann, target: p}, 0},
		{ask{user: ann, target: "/user001" + p, header: []string{"Comfy-User: user002"}}, 0},
	} {
		q := who.ask
		q.method = method
		if method != "GET" && method != "HEAD" {
			q.body = payload
		}
		a := w.ask(q)
		tried++
		if strings.Contains(a.body, "secret") || strings.Contains(fmt.Sprint(a.header), "secret") {
			t.Errorf("%s %s as %q tells bob's secret: %.200s", method, q.target, q.user, a.body)
		}
		if named(a.body) && !strings.Contains(q.target, "bobs") && q.body == "" {
			t.Errorf("%s %s as %q names what bob has: %.300s", method, q.target, q.user, a.body)
		}
		landing := p == "/" && (q.user == "" && a.status == 200 || q.user == boss && a.status == 302)
		if who.status != 0 && a.status != who.status && !landing {
			t.Errorf("%s %s as %q: status %d, want %d: %.200s", method, q.target, q.user, a.status, who.status, a.body)
		}
	}
	return tried
}

// named reports whether a text has one of bob's names.
func named(text string) bool {
	return slices.ContainsFunc([]string{bobs.doc, bobs.input, bobs.output, bobs.temp, bobs.setting, bobs.ended, bobs.waiting, bobs.running, "bobs-client", string(bob)}, func(n string) bool { return strings.Contains(text, n) })
}

// Whether a thing of another's exists must not show.
func TestForeignThingsLookLikeNothing(t *testing.T) {
	w := open(t, options{visited: true})
	settle(t, w)
	for there, gone := range map[string]string{
		"/user002/api/userdata/workflows%2F" + bobs.doc: "/user002/api/userdata/workflows%2Fnone.json", "/user002/api/jobs/" + bobs.ended: "/user002/api/jobs/none", "/user002/api/view?filename=" + bobs.input: "/user002/api/view?filename=none.png",
		"/user002/": "/user002/none", "/api/jobs/" + bobs.ended: "/api/jobs/none", "/api/history/" + bobs.ended: "/api/history/none", "/api/view?type=input&filename=" + bobs.input: "/api/view?type=input&filename=none.png",
		"/api/settings/" + bobs.setting: "/api/settings/none", "/api/userdata/workflows%2F" + bobs.doc: "/api/userdata/workflows%2Fnone.json",
	} {
		a, b := w.get(ann, there), w.get(ann, gone)
		if a.status != b.status || a.body != b.body {
			t.Errorf("%s: %d %q, but %s: %d %q", there, a.status, a.body, gone, b.status, b.body)
		}
	}
	// The same name in two homes is two files.
	w.upload(ann, "/upload/image", part{"image", bobs.input, "ann's own"}).want(t, 200)
	if a := w.get(ann, "/view?type=input&filename="+bobs.input).want(t, 200); a.body != "ann's own" {
		t.Errorf("ann sees %q", a.body)
	}
	if a := w.get(bob, "/view?type=input&filename="+bobs.input).want(t, 200); a.body != "secret "+bobs.input {
		t.Errorf("bob sees %q", a.body)
	}
	raw, err := json.Marshal(w.gw.Problems()[ann])
	if err != nil || strings.Contains(string(raw), "secret") {
		t.Errorf("problems: %s %v", raw, err)
	}
}
