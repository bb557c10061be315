// Package certificate is the door's certificate: two PEM files that somebody
// renews, read again when they change. It promises that a pair which cannot be
// used never replaces one that can, that what is wrong is said in a sentence,
// and that nothing has to be restarted. It refuses to fetch one.
package certificate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Config of a File.
type Config struct {
	Cert, Key string // PEM files; Cert with the chain behind the certificate
	Host      string // name that the door is reached under, "" = not known
	Logger    *slog.Logger
	Now       func() time.Time // nil: time.Now
}

// File is a certificate that is read from files. Safe for concurrent use.
type File struct {
	cfg Config
	log *slog.Logger

	mu     sync.RWMutex
	served *tls.Certificate
	read   [sha256.Size]byte // of the files that were read last, served or not
	wrong  error             // why what stands in the files is not served
	since  time.Time
}

// lookEvery is how often the files are looked at. Renewals come by rename, by
// symbolic link or over a network disk: reading tells them all.
const lookEvery = 2 * time.Second

// maxPEM bounds one file, in bytes.
const maxPEM = 1 << 20

// Load reads the files. A pair that cannot be served is an error; one that has
// run out or is for another name is not: see Valid.
func Load(cfg Config) (*File, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := &File{cfg: cfg, log: cfg.Logger.With("component", "certificate")}
	f.look()
	if f.served == nil {
		return nil, f.wrong
	}
	return f, nil
}

// Run looks at the files until ctx ends.
func (f *File) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.look()
		}
	}
}

// look serves what stands in the files, if it is another pair and can be served.
func (f *File) look() {
	cert, key, err := f.readFiles()
	sum := sha256.Sum256(bytes.Join([][]byte{cert, key, []byte(fmt.Sprint(err))}, []byte{0}))
	f.mu.Lock()
	defer f.mu.Unlock()
	if sum == f.read {
		return
	}
	first := f.served == nil
	f.read, f.since = sum, f.cfg.Now()
	var pair tls.Certificate
	if err == nil {
		pair, err = parse(cert, key)
	}
	if f.wrong = f.sentence(err); f.wrong != nil {
		f.log.Warn("the certificate files cannot be used; the certificate that was read before goes on", "err", f.wrong)
		return
	}
	f.served = &pair
	if why := f.valid(); why != nil {
		f.log.Warn("the certificate is not good for this door", "err", why)
	}
	if !first {
		f.log.Info("a new certificate is served", "names", strings.Join(names(pair.Leaf), " "), "until", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
}

func (f *File) readFiles() (cert, key []byte, err error) {
	if cert, err = readSmall(f.cfg.Cert); err != nil {
		return nil, nil, err
	}
	key, err = readSmall(f.cfg.Key)
	return cert, key, err
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPEM || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a PEM file", path)
	}
	return os.ReadFile(path)
}

// parse reads a pair. The leaf must come first; browsers are strict about it.
func parse(cert, key []byte) (tls.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, err
	}
	if pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	return pair, err
}

// sentence says what is wrong with the files, and never what stands in them.
func (f *File) sentence(err error) error {
	var path *os.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &path):
		return cluster.Errorf(cluster.Invalid, "the certificate file %s cannot be read (%v): check --tls-cert and --tls-key, and that this user may read them", path.Path, path.Err)
	case strings.Contains(err.Error(), "private key does not match"):
		return cluster.Errorf(cluster.Invalid, "the key in %s is not the one of the certificate in %s: copy both from the same renewal", f.cfg.Key, f.cfg.Cert)
	}
	return cluster.Errorf(cluster.Invalid, "the certificate in %s and the key in %s cannot be used: %v", f.cfg.Cert, f.cfg.Key, err)
}

// TLS is how the door speaks: TLS 1.2 or 1.3, HTTP/1.1, whatever certificate is
// served at that moment.
func (f *File) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			f.mu.RLock()
			defer f.mu.RUnlock()
			return f.served, nil
		},
	}
}

// Leaf is the certificate that is served.
func (f *File) Leaf() *x509.Certificate {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.served.Leaf
}

// Host is the name that the door is reached under: the configured one, else the
// certificate's first that is no pattern; "" if there is none.
func (f *File) Host() string {
	if f.cfg.Host != "" {
		return f.cfg.Host
	}
	for _, n := range f.Leaf().DNSNames {
		if !strings.Contains(n, "*") {
			return n
		}
	}
	return ""
}

// Covers reports whether the certificate is for a name.
func (f *File) Covers(host string) bool { return host != "" && f.Leaf().VerifyHostname(host) == nil }

// Valid says why browsers would refuse the certificate now, in a sentence.
func (f *File) Valid() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.valid()
}

func (f *File) valid() error {
	leaf, now := f.served.Leaf, f.cfg.Now()
	switch {
	case now.After(leaf.NotAfter):
		return cluster.Errorf(cluster.Unavailable, "the certificate ended on %s: browsers refuse it. Renew it; the new files are read by themselves", day(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return cluster.Errorf(cluster.Unavailable, "the certificate begins on %s: is this machine's clock right?", day(leaf.NotBefore))
	case f.cfg.Host != "" && leaf.VerifyHostname(f.cfg.Host) != nil:
		return cluster.Errorf(cluster.Unavailable, "the certificate is for %s and not for %s: browsers refuse it. Give the right files with --tls-cert and --tls-key, or the right name with --domain", strings.Join(names(leaf), ", "), f.cfg.Host)
	}
	return nil
}

// Fresh says why the certificate needs somebody soon: it ends within a margin,
// or what stands in the files is not what is served.
func (f *File) Fresh(margin time.Duration) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	left := f.served.Leaf.NotAfter.Sub(f.cfg.Now())
	switch {
	case f.wrong != nil && f.cfg.Now().Sub(f.since) >= settle:
		return cluster.Errorf(cluster.Unavailable, "%s. The certificate that was read before goes on until %s", cluster.MessageOf(f.wrong), day(f.served.Leaf.NotAfter))
	case left < margin:
		return cluster.Errorf(cluster.Unavailable, "the certificate ends on %s, in %d days", day(f.served.Leaf.NotAfter), max(0, int(left/(24*time.Hour))))
	}
	return nil
}

// settle is how long the two files of a renewal may not fit together: they are
// replaced one after the other.
const settle = time.Minute

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// names are those a certificate is for.
func names(leaf *x509.Certificate) []string {
	out := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		out = append(out, ip.String())
	}
	if len(out) == 0 {
		return []string{"no name at all"}
	}
	return out
}

// Listen makes a listener of the door speak TLS.
func (f *File) Listen(ln net.Listener) net.Listener { return tls.NewListener(ln, f.TLS()) }
