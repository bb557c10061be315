package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent"
	"github.com/ahelme/comfyume/cluster"
)

func load(t *testing.T, flags map[string]string, env ...string) (*agent.Values, error) {
	t.Helper()
	return agent.Load(flags, env)
}

// effective is one setting of a load that must work.
func effective(t *testing.T, name string, flags map[string]string, env ...string) agent.Value {
	t.Helper()
	v, err := load(t, flags, env...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range v.All() {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("there is no setting %q", name)
	return agent.Value{}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTableIsComplete(t *testing.T) {
	names, keys := map[string]bool{}, map[string]bool{}
	for _, s := range agent.Settings() {
		if names[s.Name] || keys[s.Env] {
			t.Errorf("%s (%s) stands twice", s.Name, s.Env)
		}
		names[s.Name], keys[s.Env] = true, true
		if s.Help == "" || !strings.HasSuffix(s.Help, ".") || s.Group == "" || s.Shape == "" {
			t.Errorf("%s lacks a sentence, a group or a shape", s.Name)
		}
		if s.Secret && s.Default != "" {
			t.Errorf("the secret %s has a default", s.Name)
		}
	}
	for _, name := range []string{
		"roles", "state-dir", "gateway-listen", "site-listen", "dev", "comfyui-url", "templates", "default-template", "frontend-version",
		"frontend-wheel", "frontend-sha256", "package-index", "num-users", "user-prefix", "htpasswd", "max-queue-depth", "max-body", "env-file", "log-level", "log-format", "hostname", "grace", "wheel-dir",
	} {
		if !names[name] {
			t.Errorf("the setting %s is missing", name)
		}
	}
}

// Every default must pass the checks that given texts must pass.
func TestDefaultsHaveTheirShape(t *testing.T) {
	for _, s := range agent.Settings() {
		if s.Default == "" {
			continue
		}
		if _, err := load(t, map[string]string{s.Name: s.Default}); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	path := file(t, "COMFYUME_GRACE=3s\nCOMFYUME_HOSTNAME=from-file\nPATH_OF_OTHERS=x\n")
	for _, c := range []struct {
		name, text string
		origin     agent.Origin
		flags      map[string]string
		env        []string
	}{
		{"grace", "1s", agent.FromFlag, map[string]string{"grace": "1s", "env-file": path}, []string{"COMFYUME_GRACE=2s"}},
		{"grace", "2s", agent.FromEnv, map[string]string{"env-file": path}, []string{"COMFYUME_GRACE=2s"}},
		{"grace", "3s", agent.FromEnvFile, map[string]string{"env-file": path}, nil},
		{"grace", "3s", agent.FromEnvFile, nil, []string{"COMFYUME_ENV_FILE=" + path}},
		{"grace", "30s", agent.FromDefault, nil, nil},
		{"grace", "30s", agent.FromDefault, nil, []string{"COMFYUME_GRACE="}},
		{"gateway-listen", ":443", agent.FromDefault, nil, nil},
		{"gateway-listen", "127.0.0.1:8800", agent.FromDefault, map[string]string{"dev": "true"}, nil},
		{"gateway-listen", ":443", agent.FromFlag, map[string]string{"dev": "true", "gateway-listen": ":443"}, nil},
		{"admin-password", "hush", agent.FromEnv, nil, []string{"ADMIN_PASSWORD=hush"}},
	} {
		t.Run(fmt.Sprintf("%s is %s by %s", c.name, c.text, c.origin), func(t *testing.T) {
			got := effective(t, c.name, c.flags, c.env...)
			if got.Text != c.text || got.Origin != c.origin {
				t.Errorf("%s = %q by %s", c.name, got.Text, got.Origin)
			}
		})
	}
}

func TestRefusedSettings(t *testing.T) {
	secret := file(t, "from-file\n")
	for _, c := range []struct {
		name  string
		flags map[string]string
		env   []string
		want  string
	}{
		{"misspelt key", nil, []string{"COMFYUME_STATEDIR=/x"}, "did you mean COMFYUME_STATE_DIR"},
		{"misspelt key in the env file", map[string]string{"env-file": file(t, "COMFYUME_ROLLS=queue\n")}, nil, "did you mean COMFYUME_ROLES"},
		{"file form of what is no secret", nil, []string{"COMFYUME_ROLES_FILE=/x"}, "unknown key COMFYUME_ROLES_FILE"},
		{"no such env file", map[string]string{"env-file": "/no/such/file"}, nil, "does not exist"},
		{"damaged env file", map[string]string{"env-file": file(t, "A=1\nADMIN_PASSWORD=\"topsecret\nno end")}, nil, "KEY=value lines: look at line 2"},
		{"secret by flag", map[string]string{"admin-password": "topsecret"}, nil, "never as a flag"},
		{"secret twice", nil, []string{"ADMIN_PASSWORD=topsecret", "ADMIN_PASSWORD_FILE=" + secret}, "remove one"},
		{"secret's file is missing", nil, []string{"ADMIN_PASSWORD_FILE=/no/such/file"}, "cannot be read"},
		{"secret's file is empty", nil, []string{"ADMIN_PASSWORD_FILE=" + file(t, "\n")}, "is empty"},
		{"no number", map[string]string{"num-users": "many"}, nil, "--num-users=many: use a whole number"},
		{"negative number", map[string]string{"max-queue-depth": "-1"}, nil, "whole number"},
		{"no duration", nil, []string{"COMFYUME_GRACE=soon"}, "COMFYUME_GRACE=soon: use a duration"},
		{"no size", map[string]string{"max-body": "0"}, nil, "use a size"},
		{"no switch", nil, []string{"COMFYUME_DEV=maybe"}, "true or false"},
		{"unknown word", map[string]string{"log-level": "loud"}, nil, "use debug, info, warn, error"},
		{"participant without a password", map[string]string{"dev": "true"}, []string{"USER_CREDENTIALS_USER001=topsecret"}, "must be NAME:PASSWORD"},
		{"participant with a path for a name", map[string]string{"dev": "true"}, []string{"USER_CREDENTIALS_USER001=../x:topsecret"}, "before the colon"},
		{"one participant twice", map[string]string{"dev": "true"}, []string{"USER_CREDENTIALS_USER001=a:topsecret", "USER_CREDENTIALS_USER002=a:topsecret"}, "stands in two keys"},
		{"instructor is a participant", map[string]string{"dev": "true"}, []string{"USER_CREDENTIALS_USER001=admin:topsecret"}, "instructor's name"},
		{"participant named like a page", map[string]string{"dev": "true"}, []string{"USER_CREDENTIALS_USER001=queue:topsecret"}, "a page of the site"},
		{"no roles", nil, nil, "say what this node does"},
		{"unknown role", map[string]string{"roles": "gatway"}, nil, "unknown role"},
		{"backup without a place", map[string]string{"roles": "queue,backup"}, nil, "needs to know where to"},
		{"a place on a node without files", map[string]string{"roles": "queue", "keep": "dir:/mnt/x"}, nil, "only a node with the role gateway or backup"},
		{"R2 spelled wrong", map[string]string{"roles": "gateway,queue", "keep": "s3:https://a.r2.cloudflarestorage.com.eu/b"}, nil, "s3:https://a.eu.r2.cloudflarestorage.com/b"},
		{"gpu alone without ComfyUI", map[string]string{"roles": "gpu"}, nil, "needs a ComfyUI"},
		{"dev without a gateway", map[string]string{"dev": "true", "roles": "queue"}, nil, "queue and gateway"},
		{"a node that cannot form", map[string]string{"roles": "gateway", "form": "true"}, nil, "role queue"},
		{"unknown network", map[string]string{"roles": "queue", "network": "token-ring"}, nil, "use tailnet, loopback"},
		{"gpu without ComfyUI", map[string]string{"roles": "gateway,queue,gpu"}, nil, "--comfyui-url"},
		{"ComfyUI without gpu", map[string]string{"roles": "gateway,queue", "comfyui-url": "http://127.0.0.1:1"}, nil, "add gpu"},
		{"no address", map[string]string{"dev": "true", "comfyui-url": "127.0.0.1:8188"}, nil, "use an address such as"},
		{"no port", map[string]string{"dev": "true", "gateway-listen": "localhost"}, nil, "use HOST:PORT"},
		{"too many users", map[string]string{"dev": "true", "num-users": "1000"}, nil, "at most 999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := load(t, c.flags, c.env...)
			if err == nil {
				_, err = v.Config()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if cluster.CodeOf(err) != cluster.Invalid {
				t.Errorf("code %s, want invalid", cluster.CodeOf(err))
			}
			if strings.Contains(err.Error(), "topsecret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	env := []string{"ADMIN_PASSWORD=topsecret-1", "USER_CREDENTIALS_USER001=user001:topsecret-2", "COMFYUME_TS_AUTHKEY_FILE=" + file(t, "topsecret-3\n")}
	v, err := load(t, map[string]string{"dev": "true"}, env...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v.Config()
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Participants["user001"]; string(got) != "topsecret-2" {
		t.Errorf("the password of user001 was not read")
	}
	asJSON, err := json.Marshal(cfg.Participants)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for _, r := range v.All() {
		fmt.Fprintln(&shown, r.Shown(), r)
	}
	for _, text := range []string{shown.String(), fmt.Sprintf("%v %+v %#v %s", cfg, cfg, cfg.Participants, cfg.AdminPassword), string(asJSON)} {
		if strings.Contains(text, "topsecret") {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	if got := effective(t, "ts-authkey", nil, env[2]); got.Key != "COMFYUME_TS_AUTHKEY_FILE" || got.Text != "topsecret-3" {
		t.Errorf("the key from a file: %q by %q", got.Text, got.Key)
	}
}

func TestOldEnvFileIsAccepted(t *testing.T) {
	path := file(t, `# the old installation's
DOMAIN=comfy.example.net
REDIS_PASSWORD=x
NUM_USERS=20
USER_CREDENTIALS_USER001="user001:pass one"
USER_CREDENTIALS_USER002=user002:two
ADMIN_PASSWORD=three
`)
	v, err := load(t, map[string]string{"env-file": path, "dev": "true"}, "USER_CREDENTIALS_USER002=user002:from-env")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v.Config()
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Participants) != 2 || string(cfg.Participants["user001"]) != "pass one" || string(cfg.Participants["user002"]) != "from-env" {
		t.Errorf("%d participants were read, or the wrong passwords", len(cfg.Participants))
	}
	if len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "REDIS_") {
		t.Errorf("notes = %q", v.Notes)
	}
}
