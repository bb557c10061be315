package backup_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/backup"
)

// TestUploadsToR2FailedInSilence (predecessor 45): an address that is spelled wrong is
// refused with the right one, before anything is sent; a legacy bucket is refused.
func TestUploadsToR2FailedInSilence(t *testing.T) {
	for spec, says := range map[string]string{
		"s3:https://acct.r2.cloudflarestorage.com.eu/films":          "s3:https://acct.eu.r2.cloudflarestorage.com/films",
		"s3:https://eu.acct.r2.cloudflarestorage.com/films":          "s3:https://acct.eu.r2.cloudflarestorage.com/films",
		"s3:https://acct.r2.eu.cloudflarestorage.com/films":          "s3:https://acct.eu.r2.cloudflarestorage.com/films",
		"s3:https://acct.r2.cloudflarestorage.com.":                  "s3:https://acct.r2.cloudflarestorage.com",
		"s3:https://acct.eu.r2.cloudflarestorage.com/":               "name the bucket",
		"s3:http://acct.eu.r2.cloudflarestorage.com/films":           "by https only",
		"s3:https://k:s@acct.eu.r2.cloudflarestorage.com/x":          "R2_ACCESS_KEY_ID",
		"s3:acct.eu.r2.cloudflarestorage.com/films":                  "write the address as",
		"s3:https://a.eu.r2.cloudflarestorage.com/comfy-multi-cache": "marked as legacy",
		"dir:mnt/backup": "the whole path",
		"ftp:x":          "use dir:",
		"":               "use dir:",
	} {
		_, err := backup.ParseTarget(spec, backup.LegacyBuckets())
		if cluster.CodeOf(err) != cluster.Invalid || !strings.Contains(cluster.MessageOf(err), says) {
			t.Errorf("%s: %v, want %q", spec, err, says)
		}
	}
	for spec, place := range map[string]string{
		"s3:https://acct.eu.r2.cloudflarestorage.com/films":        "https://acct.eu.r2.cloudflarestorage.com/films/",
		"s3:https://acct.r2.cloudflarestorage.com/films/2026/may/": "https://acct.r2.cloudflarestorage.com/films/2026/may/",
		"s3:http://127.0.0.1:9000/films":                           "http://127.0.0.1:9000/films/",
		"dir:/mnt/backup/":                                         "/mnt/backup",
	} {
		got, err := backup.ParseTarget(spec, nil)
		if err != nil || got.String() != place {
			t.Errorf("%s is %q, %v", spec, got, err)
		}
	}
}

// What a bucket answers is shown: wrong keys, a bucket that is not there, a server
// that is away.
func TestBucketSaysWhatIsWrong(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		if p.server == nil {
			return // a folder has no keys
		}
		keys := backup.Keys{ID: p.server.ID, Secret: "wrong", CA: p.server.CA}
		_, err := place{target: p.target.With(keys)}.vault(t).List(t.Context())
		code(t, err, cluster.Forbidden, "refuses the keys")
		keys.Secret = p.server.Secret
		_, err = place{target: target(t, strings.Replace(p.server.Spec, "/films", "/nowhere", 1)).With(keys)}.vault(t).List(t.Context())
		code(t, err, cluster.Unavailable, "there is no bucket nowhere")
		_, err = place{target: target(t, p.server.Spec).With(backup.Keys{ID: p.server.ID, Secret: p.server.Secret})}.vault(t).List(t.Context())
		code(t, err, cluster.Unavailable, "does not answer")
		p.server.Kill()
		_, err = place{target: target(t, p.server.Spec).With(keys)}.vault(t).List(t.Context())
		code(t, err, cluster.Unavailable, "does not answer")
	})
	_, err := backup.New(backup.Config{Target: target(t, "s3:https://x.example/films"), Logger: slog.New(slog.DiscardHandler)})
	code(t, err, cluster.Invalid, "R2_ACCESS_KEY_ID")
}

func FuzzTarget(f *testing.F) {
	f.Add("s3:https://acct.r2.cloudflarestorage.com.eu/films")
	f.Add("dir:/mnt/x")
	f.Add("s3:http://[::1]/a/../b")
	f.Fuzz(func(t *testing.T, spec string) {
		got, err := backup.ParseTarget(spec, backup.LegacyBuckets())
		if err == nil && got.String() == "" {
			t.Fatalf("%q names no place", spec)
		}
	})
}
