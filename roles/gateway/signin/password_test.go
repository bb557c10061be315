package signin_test

import (
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

func TestVerifyEachForm(t *testing.T) {
	for what, hash := range map[string]string{
		"bcrypt of php":   "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", // of "myPassword"
		"apr1":            "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",                        // of "myPassword"
		"sha, as nginx's": "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=",                            // of "myPassword"
	} {
		if !signin.Verify(hash, "myPassword") || signin.Verify(hash, "mypassword") || signin.Verify(hash, "") {
			t.Errorf("%s is not checked", what)
		}
	}
	for _, hash := range []string{"", "myPassword", "$2a$", "$apr1$", "{SHA}", "$1$abc$def"} {
		if signin.Verify(hash, "myPassword") || signin.Verify(hash, "") || signin.Verify(hash, hash) {
			t.Errorf("%q opens the door", hash)
		}
	}
}

func TestLongPasswordIsNotCutToOneThatFits(t *testing.T) {
	h, err := bcrypt.GenerateFromPassword([]byte(strings.Repeat("x", 72)), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if !signin.Verify(string(h), strings.Repeat("x", 72)) || signin.Verify(string(h), strings.Repeat("x", 73)) {
		t.Error("bytes after the 72nd are not looked at")
	}
}

func TestHtpasswdLinesThatCannotBeUsed(t *testing.T) {
	for _, line := range []string{"ann", "ann:", ":{SHA}BpfvR7/9NNEBKWvcCGJN7nPd0EI=", "../ann:{SHA}BpfvR7/9NNEBKWvcCGJN7nPd0EI=", "ann:secret", "ann:$2", "ann:$2y$10$short", "ann:$apr1$x", "ann:{SHA}not base64!"} {
		got, err := signin.ReadHtpasswd(strings.NewReader("# first line\n" + line + "\n"))
		if cluster.CodeOf(err) != cluster.Invalid || !strings.Contains(err.Error(), "line 2") || got != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	got, err := signin.ReadHtpasswd(strings.NewReader("ann:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/\r\nbob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="))
	if err != nil || len(got) != 2 || got[0].Name != "ann" || got[1].Name != "bob" || !signin.Verify(got[0].Hash, "myPassword") {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := signin.ReadHtpasswd(strings.NewReader(strings.Repeat("# a comment\n", 100_000) + "ann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n")); err == nil {
		t.Error("a file over the limit is read in part, and nobody is told")
	}
}

func TestGeneratedPasswordsFitAURLAndACard(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		pw := signin.GeneratePassword()
		if len(pw) != 24 || strings.Trim(pw, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || seen[pw] {
			t.Fatalf("generated %q", pw)
		}
		seen[pw] = true
	}
}

func FuzzReadHtpasswd(f *testing.F) {
	f.Add("ann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n# x\n\nbob:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/\n")
	f.Add("a:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC")
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := signin.ReadHtpasswd(strings.NewReader(text))
		if err != nil && rows != nil {
			t.Error("rows beside an error")
		}
		for _, r := range rows {
			if !r.Name.Valid() || r.Hash == "" {
				t.Errorf("row %+v", r)
			}
		}
	})
}

func FuzzBasic(f *testing.F) {
	s, err := signin.New(signin.Config{
		Person: func(cluster.User) (people.Person, bool) { return people.Person{}, false },
		Logger: slog.New(slog.DiscardHandler), Verify: func(string, string) bool { return true },
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, h := range []string{"", "Basic", "Basic ", "basic " + base64.StdEncoding.EncodeToString([]byte("a:b:c")), "Basic Og==", "Bearer x"} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if id, err := s.Basic(t.Context(), header, "here"); err == nil || id.User != "" {
			t.Errorf("nobody signed in as %+v", id)
		}
	})
}
