package agent_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent"
)

func TestUsersByTheSite(t *testing.T) {
	cfg := dev(t, t.TempDir())
	r := start(t, cfg)
	r.ready()
	post := func(path, body string, want int) (out agent.NewUser) {
		t.Helper()
		status, answer, _ := r.ask(http.MethodPost, r.site+path, "token", body)
		if status != want {
			t.Fatalf("POST %s: %d %s, want %d", path, status, answer, want)
		}
		if err := json.Unmarshal(answer, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	made := post("/api/users", `{"name":"ada"}`, 200)
	if made.Password == "" {
		t.Fatal("no password was made")
	}
	if got, _, _ := r.ask(http.MethodGet, r.door+"/queue", "ada:"+made.Password, ""); got != 200 {
		t.Errorf("ada signs in: %d", got)
	}
	post("/api/users", `{"name":"ada"}`, 409)
	post("/api/users", `{"name":"../x"}`, 400)
	post("/api/users", `{"name":"metrics"}`, 400)
	post("/api/users", `{"nom":"x"}`, 400)
	if said := post("/api/users/ada/password", `{"password":"new one"}`, 200); said.Password != "" {
		t.Error("a given password was sent back")
	}
	if got, _, _ := r.ask(http.MethodGet, r.door+"/queue", "ada:"+made.Password, ""); got != 401 {
		t.Errorf("the old password still opens: %d", got)
	}
	if got, _, _ := r.ask(http.MethodGet, r.door+"/queue", "ada:new one", ""); got != 200 {
		t.Errorf("the new password: %d", got)
	}
	post("/api/users/nobody/password", `{}`, 404)
	post("/api/users/nobody/disable", `{}`, 404)

	// A password that was set by hand outlives a restart with the old one given.
	post("/api/users/user001/password", `{"password":"by hand"}`, 200)
	r.stop()
	again := start(t, cfg)
	again.ready()
	for who, want := range map[string]int{"user001:by hand": 200, "user001:secret": 401, "user002:other": 200, "ada:new one": 200} {
		if got, _, _ := again.ask(http.MethodGet, again.door+"/queue", who, ""); got != want {
			t.Errorf("after a restart %q gets %d, want %d", who, got, want)
		}
	}
}

func TestMetricsNameNobody(t *testing.T) {
	r := start(t, dev(t, t.TempDir()))
	r.ready()
	id := r.queue(user1, square(5))
	r.picture(user1, id)
	_, body, _ := r.ask(http.MethodGet, r.site+"/metrics", "", "")
	for _, want := range []string{`comfyume_jobs_current{state="done"} 1`, "comfyume_health_ready 1", `comfyume_health_check_ok{check="commit"} 1`, "comfyume_log_leader 1", "comfyume_people_current 2", `comfyume_agent_info{version="test"} 1`} {
		if !strings.Contains(string(body), want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
	for _, no := range []string{"user001", id} {
		if strings.Contains(string(body), no) {
			t.Errorf("metrics name %s", no)
		}
	}
}
