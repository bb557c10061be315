package agent_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent"
)

// What a dialog tells a person is found by its id in the log and by whoever helps,
// with what to do, within two seconds; what another did is not among it.
func TestTheInstructorSeesWhatWentWrong(t *testing.T) {
	r := start(t, dev(t, t.TempDir()))
	r.ready()
	saw := regexp.MustCompile(`Error id ([0-9a-z-]{8})`)
	shown := func(of string) (out agent.Troubles) {
		r.get(r.site+"/api/troubles?of="+url.QueryEscape(of), "token", &out)
		return out
	}
	post := func(path, body string, want int) string {
		t.Helper()
		status, answer, _ := r.ask(http.MethodPost, r.door+path, user1, body)
		if status != want {
			t.Fatalf("POST %s: %d %s", path, status, answer)
		}
		if m := saw.FindSubmatch(answer); m != nil {
			return string(m[1])
		}
		return ""
	}
	var ids []string
	for path, body := range map[string]string{
		"/prompt":              `{"prompt":{"1":{"class_type":"NoSuchNode","inputs":{}}}}`,
		"/user001/api/prompt":  `{"prompt":{"9":{"class_type":"SaveImage","inputs":{"filename_prefix":"secret words"}}}}`,
		"/api/prompt":          `{"prompt":{}}`,
		"/api/settings/a.file": "not json: secret words",
	} {
		id := post(path, body, 400)
		if id == "" && strings.HasSuffix(path, "prompt") {
			t.Errorf("the dialog of POST %s shows no id", path)
		}
		if id != "" {
			ids = append(ids, id)
		}
	}
	began := time.Now()
	all := shown("user001").Requests
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if len(all) < 4 {
		t.Fatalf("shown: %+v", all)
	}
	for _, q := range all {
		if q.User != "user001" || q.Route == "" || q.Cure == "" || q.Node != "mello" || q.Status != 400 || strings.Contains(q.Text+q.Path, "secret") {
			t.Errorf("shown: %+v", q)
		}
	}
	for _, id := range ids {
		for _, word := range []string{id, "Error id " + id} {
			if got := shown(word).Requests; len(got) != 1 || got[0].ID != id {
				t.Errorf("%q finds %+v", word, got)
			}
		}
	}
	if got := shown("user002"); len(got.Requests)+len(got.Jobs) != 0 {
		t.Errorf("user002 did nothing: %+v", got)
	}
	// A job that fails: its dialog's id is the beginning of its own.
	id := r.queue(user1, `{"1":{"class_type":"EmptyImage","inputs":{"width":4,"height":4,"batch_size":1,"color":1}},"5":{"class_type":"SketchFail","inputs":{"image":["1",0],"mode":"raise"}},"9":{"class_type":"SaveImage","inputs":{"images":["5",0],"filename_prefix":"x"}}}`)
	var history []byte
	until(t, "the job to fail", func() bool {
		_, history, _ = r.ask(http.MethodGet, r.door+"/history/"+id, user1, "")
		return strings.Contains(string(history), "execution_error")
	})
	m := saw.FindSubmatch(history)
	if m == nil || string(m[1]) != id[:8] {
		t.Fatalf("the dialog shows no id: %s", history)
	}
	if got := shown(id[:8]).Jobs; len(got) != 1 || got[0].Prompt != id || got[0].Reason == "" || got[0].Cure == "" {
		t.Errorf("the job is shown as %+v", got)
	}
	if got := shown("user001").Jobs; len(got) != 1 || got[0].Prompt != id {
		t.Errorf("the jobs of user001: %+v", got)
	}
	for _, word := range []string{"ffffffff", "", strings.Repeat("x", 65)} {
		if status, _, _ := r.ask(http.MethodGet, r.site+"/api/troubles?of="+word, "token", ""); status != 404 && status != 400 {
			t.Errorf("%q: %d", word, status)
		}
	}
	r.stop()
	for _, id := range append(ids, string(m[1])) {
		if !strings.Contains(r.log.String(), id) {
			t.Errorf("the log has no line for %s", id)
		}
	}
	if strings.Contains(r.log.String(), "secret words") {
		t.Error("the log has what somebody typed")
	}
}
