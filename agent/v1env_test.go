package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent"
)

// oldEnv is the old installation's .env with every key that it had.
const oldEnv = `# ComfyuME v0.3.5
ENV_VERSION=0.3.5
ENV_DATE=2026-02-01
PROJECT_NAME=comfyume
SERVER_MODE=dual
USE_HOST_NGINX=true
NGINX_HTTP_PORT=80
NGINX_HTTPS_PORT=443
NGINX_CLIENT_MAX_BODY_SIZE=10000M
COMFYUI_VERSION=v0.11.0
COMFYUI_MODE=frontend-testing
COMFYUI_PORT=8188
DEBUG=false
VERBOSE_LOGS=false
LOG_LEVEL=WARNING
QM_LOG_LEVEL=INFO
DOMAIN=workshop.example.com
SSL_CERT_PATH=./ssl/fullchain.pem
SSL_KEY_PATH=/etc/ssl/${DOMAIN}.key
QUEUE_MANAGER_HOST=queue-manager
QUEUE_MANAGER_PORT=3000
QUEUE_MANAGER_LOG_LEVEL=INFO
QUEUE_MODE=round_robin
ENABLE_PRIORITY=true
JOB_TIMEOUT=3600
MAX_QUEUE_DEPTH=100
APP_SERVER_REDIS_HOST=redis
APP_SERVER_REDIS_PORT=6379
REDIS_BIND_IP=127.0.0.1
INFERENCE_SERVER_REDIS_HOST=100.64.0.1
REDIS_PASSWORD=topsecret-redis
REDIS_PERSISTENCE=yes
NUM_USERS=20
USER_ID_PREFIX=user
USER_CREDENTIALS_FORMAT="username:password"
USER_CREDENTIALS_USER001="user001:topsecret$1x"
USER_CREDENTIALS_USER002=user002:topsecret#A$B
USER_CREDENTIALS_USER003=topsecret-without-a-name
USER_CREDENTIALS_USER004=user001:topsecret-again
USER_CREDENTIALS_USER005=
ADMIN_PORT=8080
ADMIN_USERNAME=boss
ADMIN_PASSWORD='topsecret!$X'
MODELS_PATH=./data/models
OUTPUTS_PATH=/mnt/scratch/outputs
INPUTS_PATH=/mnt/scratch/inputs
WORKFLOWS_PATH=./data/workflows
HF_TOKEN=topsecret-hf
NTFY_TOPIC=workshop
INFERENCE_MODE=redis
SERVERLESS_ACTIVE=default
SERVERLESS_ENDPOINT=https://containers.example.com/x
SERVERLESS_ENDPOINT_H200_SPOT=https://containers.example.com/y
SERVERLESS_API_KEY=topsecret-serverless
NUM_WORKERS=7
WORKER_GPU_MEMORY_LIMIT=70G
WORKER_RESTART_POLICY=unless-stopped
WORKER_HEARTBEAT_TIMEOUT=60
WORKER_POLL_INTERVAL=2
WORKER_ID=worker-1
REDIS_PORT=6379
INFERENCE_PROVIDER=local
LOCAL_GPU_DEVICE=0
R2_ENDPOINT=https://x.eu.r2.example.com
R2_ACCESS_KEY_ID=topsecret-id
R2_SECRET_ACCESS_KEY=topsecret-key
R2_USER_FILES_BUCKET=files
ENV_FILE_PATH=/srv/.env
QUEUE_MANAGER_URL=http://queue-manager:3000
COMFYUI_URL=http://localhost:8188
COMFYUI_TIMEOUT=900
HTTP_CLIENT_TIMEOUT=30
LOG_FORMAT=json
ENABLE_VRAM_MONITORING=true
VRAM_SAFETY_MARGIN_MB=2048
VRAM_CHECK_TIMEOUT_SECONDS=5
VRAM_DEFAULT_ESTIMATE_MB=8192
VRAM_CHECK_DRY_RUN=false
HF_HOME=/mnt/sfs/cache/huggingface
COMFYUME_STATEDIR=/x
SOMETHING_OF_OTHERS=topsecret-others
`

// TestExtraEnvKeysCrashedTheStart: every key of the old .env has its row, what is
// ignored says why, and neither a row nor the new file tells a secret that it
// should not.
func TestExtraEnvKeysCrashedTheStart(t *testing.T) { // predecessor 72
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte(oldEnv), 0o600); err != nil {
		t.Fatal(err)
	}
	env, err := agent.ReadV1Env(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]agent.V1Key{}
	for _, k := range env.Keys {
		rows[k.Key] = k
		if (k.Ignored == "") == (k.Setting == "" && k.Command == "" && k.Account == "") {
			t.Errorf("%s is neither used nor ignored, or both: %+v", k.Key, k)
		}
		if strings.Contains(fmt.Sprintf("%v %v %v %v", k.Value, k.Ignored, k.Command, k.Account), "topsecret") {
			t.Errorf("the row of %s tells its secret", k.Key)
		}
	}
	n := 0
	for line := range strings.Lines(oldEnv) {
		if key, _, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			n++
			if _, there := rows[key]; !there {
				t.Errorf("nothing is said of %s", key)
			}
		}
	}
	if n != len(env.Keys) {
		t.Errorf("%d rows for %d keys", len(env.Keys), n)
	}
	used := usedKeys(env)
	dir := filepath.Dir(path)
	want := map[string]string{
		"NGINX_HTTP_PORT": "COMFYUME_REDIRECT_LISTEN=:80", "NGINX_HTTPS_PORT": "COMFYUME_GATEWAY_LISTEN=:443", "COMFYUI_VERSION": "COMFYUME_COMFYUI_VERSION=v0.11.0",
		"COMFYUI_PORT": "COMFYUME_COMFYUI_PORT=8188", "LOG_LEVEL": "COMFYUME_LOG_LEVEL=warn", "LOG_FORMAT": "COMFYUME_LOG_FORMAT=json", "DOMAIN": "DOMAIN=workshop.example.com",
		"SSL_CERT_PATH": "SSL_CERT_PATH=" + dir + "/ssl/fullchain.pem", "SSL_KEY_PATH": "SSL_KEY_PATH=/etc/ssl/workshop.example.com.key",
		"QUEUE_MODE": "=comfyume-agent queue mode round-robin", "MAX_QUEUE_DEPTH": "COMFYUME_MAX_QUEUE_DEPTH=100", "NUM_USERS": "COMFYUME_NUM_USERS=20",
		"USER_ID_PREFIX": "COMFYUME_USER_PREFIX=user", "USER_CREDENTIALS_USER001": "=user001", "USER_CREDENTIALS_USER002": "=user002",
		"ADMIN_USERNAME": "ADMIN_USERNAME=boss", "ADMIN_PASSWORD": "ADMIN_PASSWORD=(set, not shown)", "MODELS_PATH": "COMFYUME_MODELS_DIR=" + dir + "/data/models",
		"WORKFLOWS_PATH": "COMFYUME_TEMPLATES=" + dir + "/data/workflows", "NUM_WORKERS": "COMFYUME_WORKERS_PER_GPU=7", "COMFYUI_URL": "COMFYUME_COMFYUI_URL=http://localhost:8188",
		"R2_ACCESS_KEY_ID": "R2_ACCESS_KEY_ID=(set, not shown)", "R2_SECRET_ACCESS_KEY": "R2_SECRET_ACCESS_KEY=(set, not shown)",
	}
	for k, v := range want {
		if used[k] != v {
			t.Errorf("%s became %q, want %q", k, used[k], v)
		}
		delete(used, k)
	}
	if len(used) > 0 || env.Used() != len(want) {
		t.Errorf("%d used, unexpected: %v", env.Used(), used)
	}
	if got := rows["COMFYUME_STATEDIR"].Ignored; !strings.Contains(got, "did you mean COMFYUME_STATE_DIR") {
		t.Errorf("a misspelt key of ours: %q", got)
	}
	passwords := []agent.NewUser{{Name: "user001", Password: "topsecret$1x"}, {Name: "user002", Password: "topsecret#A$B"}}
	if !slices.Equal(env.Accounts, passwords) {
		t.Error("the passwords are not those of the file")
	}
}

// usedKeys is what becomes of the keys that are not ignored.
func usedKeys(env *agent.V1Env) map[string]string {
	used := map[string]string{}
	for _, k := range env.Keys {
		if k.Ignored == "" {
			used[k.Key] = k.Setting + "=" + k.Value + k.Command + k.Account
		}
	}
	return used
}

// TestTheNewEnvFileStartsANode: what import v1 writes is what the agent reads.
func TestTheNewEnvFileStartsANode(t *testing.T) {
	env, err := agent.ReadV1Env(file(t, oldEnv))
	if err != nil {
		t.Fatal(err)
	}
	text, err := env.EnvFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, foreign := range []string{"user001:", "topsecret-redis", "topsecret-hf", "topsecret-serverless", "topsecret-others"} {
		if strings.Contains(string(text), foreign) {
			t.Error("the new file holds secrets that no setting takes")
		}
	}
	v, err := load(t, map[string]string{"env-file": file(t, string(text)), "roles": "gateway,queue"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v.Config()
	if err != nil {
		t.Fatal(err)
	}
	if string(cfg.AdminPassword) != "topsecret!$X" || cfg.AdminUsername != "boss" || cfg.Domain != "workshop.example.com" || cfg.MaxQueueDepth != 100 || cfg.RedirectListen != ":80" {
		t.Errorf("the node would start with %+v", cfg)
	}
	if len(cfg.ComfyUIURLs) > 0 || len(cfg.Participants) > 0 {
		t.Errorf("what belongs to GPU machines or to people stands in it: %v, %d people", cfg.ComfyUIURLs, len(cfg.Participants))
	}
}

// TestPasswordsKeepTheirDollars: passwords of the old installation had a $ in
// them, and the line that explained how they are written was no account.
func TestPasswordsKeepTheirDollars(t *testing.T) {
	path := file(t, "\ufeff"+`X=lost
USER_CREDENTIALS_FORMAT="username:password"
USER_CREDENTIALS_USER001="user001:a$Xb$$1"
USER_CREDENTIALS_USER002=user002:$X#!
USER_CREDENTIALS_USER003='user003:a$X'
USER_CREDENTIALS_USER004="user004:\$X${X}"
ADMIN_PASSWORD=$1$X
DOMAIN=$X.example.net
`)
	v, err := load(t, map[string]string{"env-file": path, "dev": "true"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v.Config()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"user001": "a$Xb$$1", "user002": "$X#!", "user003": "a$X", "user004": "$Xlost"} {
		if got := string(cfg.Participants[agent.User(name)]); got != want {
			t.Errorf("%s has the password %q, want %q", name, got, want)
		}
	}
	if string(cfg.AdminPassword) != "$1$X" || cfg.Domain != "lost.example.net" || len(cfg.Participants) != 4 {
		t.Errorf("%q, %q, %d participants", string(cfg.AdminPassword), cfg.Domain, len(cfg.Participants))
	}
	if v, err = load(t, map[string]string{"dev": "true"}, "USER_CREDENTIALS_FORMAT=username:password"); err != nil {
		t.Fatal(err)
	}
	if cfg, err = v.Config(); err != nil || len(cfg.Participants) != 0 {
		t.Errorf("anybody may sign in as username: %v", err)
	}
}

// FuzzV1Env: whatever stands in a .env, each key has one row, no row tells a
// password, and what is written is read as it was.
func FuzzV1Env(f *testing.F) {
	f.Add(oldEnv)
	for _, s := range []string{"", "A=$A\n", "ADMIN_PASSWORD=\"a\\$b\\\\\"\n", "USER_CREDENTIALS_X=a:b$c\nUSER_CREDENTIALS_Y=a:b", "SSL_KEY_PATH='a'b'\n", "export DOMAIN: x\n", "\"", "LOG_LEVEL=é\x00\n", "ADMIN_PASSWORD=007"} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "fuzz.env")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		env, err := agent.ReadV1Env(path)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error quotes the file: %v", err)
			}
			return
		}
		settings := map[string]bool{}
		for i, k := range env.Keys {
			if i > 0 && env.Keys[i-1].Key >= k.Key {
				t.Errorf("two rows for %q", k.Key)
			}
			if (k.Ignored == "") == (k.Setting == "" && k.Command == "" && k.Account == "") {
				t.Errorf("neither used nor ignored, or both: %+v", k)
			}
			if k.Setting != "" && !k.GPU {
				settings[k.Setting] = true
			}
		}
		written, err := env.EnvFile()
		if err != nil {
			return
		}
		if err := os.WriteFile(path, written, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := agent.ReadV1Env(path)
		if err != nil {
			t.Fatalf("%v: %s", err, written)
		}
		for _, k := range again.Keys {
			if !settings[k.Key] {
				t.Errorf("%q was not to be written", k.Key)
			}
		}
		if len(again.Keys) != len(settings) {
			t.Errorf("%d of %d settings were written", len(again.Keys), len(settings))
		}
		if twice, err := again.EnvFile(); err != nil || !strings.HasPrefix(string(written), string(twice)) {
			t.Errorf("what was written is read otherwise: %v\n%s\n%s", err, written, twice)
		}
	})
}
