package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What cannot stand in such a file is named in it.
func TestSettingThatEndsWithABackslashIsNamed(t *testing.T) {
	v, err := Load(map[string]string{"dev": "true"}, []string{`ADMIN_PASSWORD=ends\\`})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.lines(); !strings.Contains(got, "# ADMIN_PASSWORD ends with a backslash") || strings.Contains(got, `ends\`) {
		t.Errorf("the settings are %q", got)
	}
}

// What a backup has of a machine's settings is what the restored machine reads.
func TestSettingsComeBackAsTheyWere(t *testing.T) {
	for _, text := range []string{
		"plain", "with space", "pa$word", "${HOME}", "$HOME", "a'b", `a"b`, `back\\slash`, `it's ${HOME} and \\ and "x"`, "#no comment", `'`, `'"`, `'\$x`, `'\\"`, "'\n", "a=b", "um\u00e4ut",
	} {
		env := []string{"ADMIN_PASSWORD=" + text, "DOMAIN=comfy.example.net", "USER_CREDENTIALS_USER001=ann:" + text}
		before, err := Load(map[string]string{"dev": "true"}, env)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "settings.env")
		if err := os.WriteFile(path, []byte(before.lines()), 0o600); err != nil {
			t.Fatal(err)
		}
		after, err := Load(map[string]string{"env-file": path}, nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := after.text("admin-password"); got != text {
			t.Errorf("the password %q comes back as %q", text, got)
		}
		if len(after.credentials) != 1 || after.credentials[0].Text != "ann:"+text {
			t.Errorf("ann's password %q comes back as %v", text, len(after.credentials))
		}
		if after.text("domain") != "comfy.example.net" || after.text("dev") != "true" {
			t.Errorf("%q: other settings are lost", text)
		}
	}
}
