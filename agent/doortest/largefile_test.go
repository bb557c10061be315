package doortest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestKilledGatewayGoesOnWithALargeFile: a film is uploaded at one gateway, and the
// other is killed while it copies it. Each time it goes on from where it was.
func TestKilledGatewayGoesOnWithALargeFile(t *testing.T) {
	const size, kills, seed = 250<<20 + 77, 3, 17
	hall := doortest.Hall(t)
	a := doortest.Start(t, doortest.Options{Roles: "queue,gateway", Hall: hall, Name: "mello"})
	b := doortest.Start(t, doortest.Options{Roles: "gateway", Hall: hall, Name: "annex"})
	body, kind, ref := footage(t, seed, size)
	coming := filepath.Join(b.StateDir, "blobs", "partial", ref)
	there := filepath.Join(b.StateDir, "blobs", "blobs", ref[:2], ref)
	here := func() int64 {
		for _, path := range []string{coming, there} {
			if info, err := os.Stat(path); err == nil {
				return info.Size()
			}
		}
		return 0
	}
	roll := rand.New(rand.NewPCG(seed, 1))
	at := make([]int64, kills)
	for i := range at {
		at[i] = roll.Int64N(size * 9 / 10)
	}
	slices.Sort(at)
	if code, _, raw, err := a.Client("user001").Do("POST", "/upload/image", body, "Content-Type", kind); err != nil || code != 200 {
		t.Fatalf("upload: %d, %v: %.300s", code, err, raw)
	}
	for i, byteAt := range at {
		doortest.Until(t, 2*time.Minute, fmt.Sprintf("byte %d has come", byteAt), func() bool { return here() >= byteAt })
		b.Kill()
		had := here()
		t.Logf("kill %d of %d seed=%d offset=%d here=%d", i+1, kills, seed, byteAt, had)
		b.Launch(t)
		if _, err := os.Stat(there); err == nil {
			t.Logf("it was whole by then")
			break
		}
		doortest.Until(t, 2*time.Minute, "more has come", func() bool {
			now := here()
			if now < had {
				t.Fatalf("%d bytes were here, and %d after the new start", had, now)
			}
			return now > had
		})
	}
	doortest.Until(t, 2*time.Minute, "the film is at the other gateway", func() bool { _, err := os.Stat(there); return err == nil })
	if got := digestOf(t, there); got != ref {
		t.Errorf("another file has its name: %s", got)
	}
}

// footage is the form in which a large file is uploaded, and the file's sha256.
func footage(t *testing.T, seed uint64, size int64) (body []byte, kind, ref string) {
	t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("image", "film.mp4")
	if err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(part, sum), rand.NewChaCha8(key), size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return form.Bytes(), w.FormDataContentType(), hex.EncodeToString(sum.Sum(nil))
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err = io.Copy(sum, f); errors.Join(err, f.Close()) != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
