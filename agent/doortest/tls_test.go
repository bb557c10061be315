package doortest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/ahelme/comfyume/agent/doortest"
)

// authority issues certificates that http.DefaultClient trusts while the test runs.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	before := http.DefaultTransport
	trusting := before.(*http.Transport).Clone()
	trusting.TLSClientConfig = &tls.Config{RootCAs: roots}
	http.DefaultTransport = trusting
	websocket.DefaultDialer.TLSClientConfig = trusting.TLSClientConfig
	t.Cleanup(func() {
		trusting.CloseIdleConnections()
		http.DefaultTransport, websocket.DefaultDialer.TLSClientConfig = before, nil
	})
	return a
}

// issue writes the door's files anew: for 127.0.0.1 and the names.
func (a *authority) issue(serial int64, days int, names ...string) (args []string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, days), DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, private := filepath.Join(a.dir, "fullchain.pem"), filepath.Join(a.dir, "privkey.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, private: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return []string{"--tls-cert", cert, "--tls-key", private}
}

// served is the certificate that a new connection gets.
func served(t *testing.T, a *doortest.Agent) (serial int64) {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(a.URL, "https://"), http.DefaultTransport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// site asks the node's own site.
func site(t *testing.T, a *doortest.Agent, path string) string {
	t.Helper()
	addr, err := os.ReadFile(filepath.Join(a.StateDir, "site"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(a.StateDir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("GET", "http://"+strings.TrimSpace(string(addr))+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestDoorOverTLS goes through the door with its own certificate: page, sign-in,
// job and socket, a renewal while it runs, and what is said when one is due.
func TestDoorOverTLS(t *testing.T) {
	ca := newAuthority(t)
	plain := doortest.FreeAddr(t)
	args := append(ca.issue(2, 60, "door.test"), "--domain", "door.test", "--redirect-listen", plain)
	a := doortest.Start(t, doortest.Options{Args: args, TLS: true})
	c := a.Client("user001")
	e, _ := run(t, c, doortest.Inverted(0x123456, 16, "tls"), "tls")
	if err := doortest.Uniform(c.Fetch(t, e, "9"), doortest.Invert(0x123456), 16); err != nil {
		t.Error(err)
	}

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.PostForm(a.URL+"/login", url.Values{"name": {"user001"}, "password": {c.Pass}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	got := resp.Header.Get("Set-Cookie")
	if resp.StatusCode != 303 || !strings.HasPrefix(got, "__Host-comfyume=") || !strings.Contains(got, "secure") || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("sign-in: %d, %s, %s", resp.StatusCode, got, resp.Header)
	}
	if resp, err = browser.Get(a.URL + "/user001/api/settings"); err != nil || resp.StatusCode != 200 {
		t.Errorf("with the cookie: %v, %v", resp, err)
	}
	_ = resp.Body.Close()

	// Whoever comes without TLS is sent on, never to a host of somebody else's choice.
	for host, want := range map[string]string{"door.test": "door.test", "door.test:80": "door.test", "evil.test": "door.test", "127.0.0.1": "127.0.0.1", "": "door.test"} {
		req, err := http.NewRequest("GET", "http://"+plain+"/user001/a%2Fb?c=d", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if host == "" {
			req.Host = "-"
		}
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(a.URL, "https://"))
		if got := resp.Header.Get("Location"); resp.StatusCode != 308 || got != "https://"+net.JoinHostPort(want, port)+"/user001/a%2Fb?c=d" {
			t.Errorf("host %q: %d to %q", host, resp.StatusCode, got)
		}
	}

	ws := c.Socket(t, "stays")
	if _, err := ws.Next(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	ca.issue(3, 9, "door.test")
	began := time.Now()
	doortest.Until(t, 20*time.Second, "the new certificate is served", func() bool { return served(t, a) == 3 })
	took := time.Since(began)
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(1, 8, "tls"), "client_id": "stays"}, nil)
	if _, err := ws.Next(5 * time.Second); err != nil {
		t.Errorf("the socket did not live through the renewal: %v", err)
	}
	doortest.Until(t, 20*time.Second, "the dashboard tells that it ends soon", func() bool { return strings.Contains(site(t, a, "/api/status"), "the certificate ends on") })
	if m := site(t, a, "/metrics"); !strings.Contains(m, "comfyume_gateway_tls_not_after_seconds 1.") || !strings.Contains(m, "comfyume_gateway_tls_valid 1") || !strings.Contains(m, `comfyume_signin_hashed_total 1`) {
		t.Error("the metrics do not tell")
	}
	ca.issue(4, 60, "other.test")
	doortest.Until(t, 20*time.Second, "the dashboard tells that the name is wrong", func() bool {
		return strings.Contains(site(t, a, "/api/status"), "the certificate is for other.test, 127.0.0.1 and not for door.test")
	})
	if h := site(t, a, "/healthz"); !strings.Contains(h, `"degraded":["certificate"]`) {
		t.Errorf("healthz: %s", h)
	}
	fmt.Printf("tls reload_seconds=%.1f\n", took.Seconds())
}
