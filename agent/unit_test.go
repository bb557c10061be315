package agent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent"
)

func unit(t *testing.T, flags map[string]string, env []string, u agent.Unit) agent.Written {
	t.Helper()
	v, err := agent.Load(flags, env)
	if err != nil {
		t.Fatal(err)
	}
	if u.Binary == "" {
		u.Binary = "/usr/local/bin/comfyume-agent"
	}
	w, err := v.Unit(u)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestUnitOfEachNode: what each kind of node needs stands in its unit, and what it
// does not need is closed.
func TestUnitOfEachNode(t *testing.T) {
	for name, c := range map[string]struct {
		flags     map[string]string
		unit      agent.Unit
		user      string
		has, lack []string
	}{
		"core": {
			map[string]string{"roles": "gateway,queue"},
			agent.Unit{Memory: "2GiB"},
			agent.ServiceUser,
			[]string{"StateDirectory=comfyume", "StateDirectoryMode=0700", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "MemoryMax=2048M", "TimeoutStopSec=45", "KillMode=mixed", "Type=notify", "WatchdogSec=90", "Restart=always"},
			[]string{"OOMPolicy", "ReadWritePaths"},
		},
		"queue alone listens nowhere": {
			map[string]string{"roles": "queue", "grace": "2m"},
			agent.Unit{Memory: "none"},
			agent.ServiceUser,
			[]string{"CapabilityBoundingSet=", "MemoryMax=infinity", "TimeoutStopSec=135"},
			nil,
		},
		"starts ComfyUI as another user": {
			map[string]string{"roles": "gpu", "comfyui-dir": "/opt/ComfyUI", "models-dir": "/mnt/sfs/models,/mnt/more"},
			agent.Unit{},
			"root",
			[]string{"StateDirectory=comfyume comfyume-comfyui", "StateDirectoryMode=0711", "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_KILL", "OOMPolicy=continue", "ProtectHome=read-only", "  --models-dir=/mnt/sfs/models,/mnt/more"},
			[]string{"PrivateDevices", "SystemCallFilter", "UMask", "AmbientCapabilities"},
		},
		"starts ComfyUI as itself": {
			map[string]string{"roles": "gpu", "comfyui-dir": "/opt/ComfyUI"},
			agent.Unit{User: "comfyui"},
			"comfyui",
			[]string{"CapabilityBoundingSet=", "AmbientCapabilities="},
			nil,
		},
		"drives a ComfyUI": {
			map[string]string{"roles": "gpu", "comfyui-url": "http://127.0.0.1:8188"},
			agent.Unit{},
			agent.ServiceUser,
			[]string{"SystemCallFilter=@system-service"},
			[]string{"PrivateDevices", "OOMPolicy"},
		},
		"folders elsewhere": {
			map[string]string{"roles": "gateway,queue", "state-dir": "/srv/work shop", "keep": "dir:/mnt/backup", "templates": "/home/ann/flows", "wheel-dir": "/tmp/wheels"},
			agent.Unit{},
			agent.ServiceUser,
			[]string{`ReadWritePaths="/srv/work shop"`, "ReadWritePaths=/mnt/backup", "ProtectHome=read-only"},
			[]string{"StateDirectory", "PrivateTmp"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := unit(t, c.flags, nil, c.unit)
			if w.User != c.user {
				t.Errorf("it runs as %s, want %s", w.User, c.user)
			}
			lines := strings.Split(strings.ReplaceAll(w.Text, " \\\n", "\n"), "\n")
			for _, want := range append(c.has, "User="+c.user, "NoNewPrivileges=yes", "ProtectSystem=strict", "EnvironmentFile=-"+agent.SecretsFile) {
				if !slices.Contains(lines, want) {
					t.Errorf("it lacks the line %s", want)
				}
			}
			for _, bad := range c.lack {
				if strings.Contains(w.Text, bad) {
					t.Errorf("it has %s", bad)
				}
			}
			if t.Failed() {
				t.Log(w.Text)
			}
		})
	}
}

// TestUnitKeepsWhatWasSet: settings of flags and environment are in the command
// line, as systemd reads it, and secrets are not.
func TestUnitKeepsWhatWasSet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "old.env")
	if err := os.WriteFile(file, []byte("DOMAIN=comfy.example.net\nUSER_CREDENTIALS_USER001=user001:topsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := unit(t, map[string]string{"roles": "gpu", "comfyui-url": "sketch", "idle-hook": `echo "100%" $HOME`, "env-file": file},
		[]string{"ADMIN_PASSWORD=topsecret", "COMFYUME_TS_AUTHKEY=topsecret", "COMFYUME_HOSTNAME=verda-1", "COMFYUME_GRACE=5s"}, agent.Unit{User: "gpu"})
	for _, want := range []string{"  --hostname=verda-1", "  --grace=5s", "  \"--idle-hook=echo \\\"100%%\\\" $$HOME\"", "  --env-file=" + file} {
		if !strings.Contains(w.Text, want) {
			t.Errorf("it lacks %s", want)
		}
	}
	if strings.Contains(w.Text, "topsecret") || strings.Contains(strings.Join(w.Notes, "\n"), "topsecret") {
		t.Error("a secret is told")
	}
	if strings.Contains(w.Text, "example.net") {
		t.Error("what stands in the env file stands in the unit as well")
	}
	for _, key := range []string{"ADMIN_PASSWORD", "COMFYUME_TS_AUTHKEY"} {
		if !slices.ContainsFunc(w.Notes, func(n string) bool { return strings.HasPrefix(n, key+" is set here") }) {
			t.Errorf("no note says that %s must be brought otherwise: %q", key, w.Notes)
		}
	}
	v, err := agent.Load(map[string]string{"roles": "queue"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"lots", "1MiB", "-1"} {
		if _, err := v.Unit(agent.Unit{Memory: bad}); err == nil || !strings.Contains(err.Error(), "--memory-max="+bad) {
			t.Errorf("memory %q: %v", bad, err)
		}
	}
}

// TestSystemdReadsTheUnit: where systemd is installed it finds nothing wrong.
func TestSystemdReadsTheUnit(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: left out")
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	check := func(text string) (string, error) {
		path := filepath.Join(t.TempDir(), "comfyume.service")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "verify", "--man=no", path).CombinedOutput()
		return string(out), err
	}
	for _, flags := range []map[string]string{
		{"roles": "gateway,queue", "keep": "dir:/mnt/backup", "state-dir": "/srv/work shop"},
		{"roles": "gpu", "comfyui-dir": "/opt/ComfyUI", "idle-hook": `echo "100%" $HOME; shutdown -h now`},
	} {
		w := unit(t, flags, nil, agent.Unit{Binary: binary})
		if out, err := check(w.Text); err != nil || out != "" {
			t.Errorf("%v: %v\n%s\n%s", flags, err, out, w.Text)
		}
		if out, err := check(strings.Replace(w.Text, "WatchdogSec=90", "WatchdogSec=soon", 1)); err == nil && out == "" {
			t.Error("systemd-analyze finds nothing wrong with a unit that is wrong")
		}
	}
}
