package certificate_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/certificate"
)

// issued is a certificate with its key, in PEM.
type issued struct{ cert, key []byte }

// issue makes a certificate as an authority would, for names, from to until.
func issue(t *testing.T, serial int64, from, until time.Time, hosts ...string) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: from, NotAfter: until, DNSNames: hosts, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return issued{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
}

// files is where a certificate is kept.
type files struct {
	t         *testing.T
	cert, key string
}

func newFiles(t *testing.T) files {
	dir := t.TempDir()
	return files{t, filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem")}
}

func (f files) write(path string, raw []byte) {
	f.t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f files) put(c issued) { f.write(f.cert, c.cert); f.write(f.key, c.key) }

func (f files) load(host string) (*certificate.File, *bytes.Buffer, error) {
	var log bytes.Buffer
	c, err := certificate.Load(certificate.Config{Cert: f.cert, Key: f.key, Host: host, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	return c, &log, err
}

func serial(f *certificate.File) int64 { return f.Leaf().SerialNumber.Int64() }

// TestRenewalIsServedWithoutARestart renews in the ways that renewals come, and
// in those that must not end the door.
func TestRenewalIsServedWithoutARestart(t *testing.T) {
	at := newFiles(t)
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		year := now.AddDate(1, 0, 0)
		one, two, three := issue(t, 1, now, year, "door.test"), issue(t, 2, now, year, "door.test"), issue(t, 3, now, year, "door.test")
		at.put(one)
		f, _, err := at.load("door.test")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var run sync.WaitGroup
		run.Go(func() {
			if err := f.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer run.Wait()
		defer cancel()
		served := func(what string, want int64) {
			t.Helper()
			time.Sleep(3 * time.Second)
			if got := serial(f); got != want {
				t.Errorf("%s: certificate %d is served, want %d", what, got, want)
			}
		}
		served("nothing changed", 1)
		at.write(at.cert, two.cert)
		served("half a renewal", 1)
		if err := f.Fresh(0); err != nil {
			t.Errorf("the moment between two files is told: %v", err)
		}
		at.write(at.key, two.key)
		served("the other half", 2)
		at.write(at.cert, []byte("nonsense"))
		served("nonsense", 2)
		time.Sleep(time.Minute)
		if err := f.Fresh(0); err == nil || !strings.Contains(err.Error(), "goes on until") {
			t.Errorf("nonsense for a minute: %v", err)
		}
		if err := os.Remove(at.key); err != nil {
			t.Fatal(err)
		}
		served("a missing file", 2)
		dir := filepath.Join(filepath.Dir(at.cert), "archive") // as certbot does
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		at.write(filepath.Join(dir, "cert3.pem"), three.cert)
		at.write(filepath.Join(dir, "key3.pem"), three.key)
		for from, to := range map[string]string{"cert3.pem": at.cert, "key3.pem": at.key} {
			_ = os.Remove(to)
			if err := os.Symlink(filepath.Join("archive", from), to); err != nil {
				t.Fatal(err)
			}
		}
		served("symbolic links", 3)
		if err := f.Fresh(0); err != nil {
			t.Errorf("all is well again: %v", err)
		}
	})
}

func TestWhatBrowsersWouldRefuse(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		what        string
		cert        issued
		host        string
		valid, soon string // part of the sentence, "" = fine
	}{
		{"good", issue(t, 1, now.Add(-time.Hour), now.AddDate(0, 0, 60), "door.test"), "door.test", "", ""},
		{"a pattern", issue(t, 1, now.Add(-time.Hour), now.AddDate(0, 0, 60), "*.test"), "door.test", "", ""},
		{"no name asked for", issue(t, 1, now.Add(-time.Hour), now.AddDate(0, 0, 60), "other.test"), "", "", ""},
		{"another name", issue(t, 1, now.Add(-time.Hour), now.AddDate(0, 0, 60), "other.test", "www.other.test"), "door.test", "is for other.test, www.other.test and not for door.test", ""},
		{"a name of before the year 2000", issue(t, 1, now.Add(-time.Hour), now.AddDate(0, 0, 60)), "door.test", "is for no name at all and not for door.test", ""},
		{"ended", issue(t, 1, now.AddDate(0, 0, -9), now.AddDate(0, 0, -1), "door.test"), "door.test", "ended on", "in 0 days"},
		{"not begun", issue(t, 1, now.AddDate(0, 0, 1), now.AddDate(0, 0, 60), "door.test"), "door.test", "clock", ""},
		{"ends soon", issue(t, 1, now.AddDate(0, 0, -9), now.AddDate(0, 0, 9).Add(time.Hour), "door.test"), "door.test", "", "in 9 days"},
	} {
		at := newFiles(t)
		at.put(c.cert)
		f, _, err := at.load(c.host)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		for _, said := range []struct {
			err  error
			want string
		}{{f.Valid(), c.valid}, {f.Fresh(14 * 24 * time.Hour), c.soon}} {
			if (said.err == nil) != (said.want == "") || said.err != nil && !strings.Contains(said.err.Error(), said.want) {
				t.Errorf("%s: %v, want %q", c.what, said.err, said.want)
			}
		}
	}
}

func TestFilesThatCannotBeServed(t *testing.T) {
	now := time.Now()
	good, other := issue(t, 1, now, now.AddDate(1, 0, 0), "door.test"), issue(t, 2, now, now.AddDate(1, 0, 0), "door.test")
	for what, c := range map[string]struct {
		cert, key []byte
		want      string
	}{
		"the key of another":  {good.cert, other.key, "not the one of the certificate"},
		"two certificates":    {good.cert, good.cert, "cannot be used"},
		"two keys":            {good.key, good.key, "cannot be used"},
		"the wrong way round": {good.key, good.cert, "cannot be used"},
		"nothing":             {nil, nil, "cannot be used"},
		"half a file":         {good.cert[:len(good.cert)/2], good.key, "cannot be used"},
	} {
		at := newFiles(t)
		at.put(issued{c.cert, c.key})
		_, log, err := at.load("door.test")
		if cluster.CodeOf(err) != cluster.Invalid || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), at.cert) {
			t.Errorf("%s: %v", what, err)
		}
		if body := strings.Split(string(good.key), "\n")[1]; strings.Contains(log.String(), body) {
			t.Errorf("%s: the log tells the key", what)
		}
	}
	_, _, err := newFiles(t).load("")
	if cluster.CodeOf(err) != cluster.Invalid || !strings.Contains(err.Error(), "cannot be read") || !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("no files: %v", err)
	}
}

// TestHandshake speaks with the door as browsers of several years do.
func TestHandshake(t *testing.T) {
	now := time.Now()
	at, c := newFiles(t), issue(t, 1, now.Add(-time.Hour), now.AddDate(1, 0, 0), "door.test")
	at.put(c)
	f, _, err := at.load("door.test")
	if err != nil {
		t.Fatal(err)
	}
	if f.Host() != "door.test" || !f.Covers("door.test") || f.Covers("other.test") || f.Covers("") {
		t.Errorf("host %q", f.Host())
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.cert)
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		here, there := net.Pipe()
		server := tls.Server(there, f.TLS())
		var shake sync.WaitGroup
		shake.Go(func() { _ = server.Handshake(); _ = there.Close() })
		client := tls.Client(here, &tls.Config{RootCAs: roots, ServerName: "door.test", MinVersion: version, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}}) //nolint:gosec // old versions are what is tried
		err := client.Handshake()
		if (err == nil) != ok {
			t.Errorf("version %x: %v", version, err)
		}
		if state := client.ConnectionState(); err == nil && (state.Version != version || state.NegotiatedProtocol != "http/1.1") {
			t.Errorf("spoke %x, %q", state.Version, state.NegotiatedProtocol)
		}
		_ = here.Close()
		shake.Wait()
	}
}
