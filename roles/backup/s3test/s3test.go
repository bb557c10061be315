// Package s3test runs a real S3 server (versitygw) over TLS for tests: it checks the
// digests that come with a request, and keeps objects as files that a test can spoil.
package s3test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Server is a running one with one bucket.
type Server struct {
	Spec   string // for --keep
	ID     string
	Secret string
	CA     string // PEM file
	Bucket string // folder in which the objects lie, by name

	t    testing.TB
	root string
	addr string
	cmd  *exec.Cmd
}

// build makes the server's program once; its versions and digests stand in
// deploy/s3test.
var build = sync.OnceValues(func() (string, error) {
	repo, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for !exists(filepath.Join(repo, "deploy", "s3test", "go.mod")) { // a test runs in its package's folder
		if filepath.Dir(repo) == repo {
			return "", errors.New("deploy/s3test is in no folder above")
		}
		repo = filepath.Dir(repo)
	}
	path := filepath.Join(repo, "bin", "versitygw")
	made, err := os.Stat(path)
	wanted, werr := os.Stat(filepath.Join(repo, "deploy", "s3test", "go.sum"))
	if err == nil && werr == nil && made.ModTime().After(wanted.ModTime()) {
		return path, nil // make has made it
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = filepath.Join(repo, "deploy", "s3test")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build versitygw: %w\n%s", err, out)
	}
	return path, nil
})

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{ID: "workshop", Secret: rand.Text(), t: t, root: t.TempDir()}
	s.Bucket = filepath.Join(s.root, "films")
	if err := os.Mkdir(s.Bucket, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.CA = certificate(t, t.TempDir())
	s.Spec = "s3:https://" + s.addr + "/films"
	s.Run()
	return s
}

// Run starts the server again after Kill.
func (s *Server) Run() {
	s.t.Helper()
	program, err := build()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(program, "--access", s.ID, "--secret", s.Secret, "--port", s.addr, "--cert", s.CA, "--key", s.CA, "--health", "/health", "--quiet", "posix", s.root)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.cmd
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // whether it answers, no more
	for limit := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := c.Get("https://" + s.addr + "/health")
		if err == nil {
			_ = r.Body.Close()
			return
		}
		if time.Now().After(limit) {
			s.t.Fatalf("the S3 server does not answer: %v", err)
		}
	}
}

// Kill ends it at once.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Env are the keys as the agent reads them.
func (s *Server) Env() []string {
	return []string{"R2_ACCESS_KEY_ID=" + s.ID, "R2_SECRET_ACCESS_KEY=" + s.Secret, "COMFYUME_KEEP_CA=" + s.CA}
}

// certificate makes one that speaks for itself, with its key, in one file.
func certificate(t testing.TB, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "s3test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s3.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
