package backup

import (
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Target is where backups are kept, as --keep names it: a folder, or a bucket.
type Target struct {
	Spec string // as it was written

	path         string // of a folder
	host, bucket string
	prefix       string // "" or "name/"
	plain        bool   // without TLS: loopback only
	region       string
	keys         Keys
	still        time.Duration // how long a transfer may stand still
	part         int64         // size of the parts of a large object, in bytes
}

// Keys sign requests to a bucket.
type Keys struct {
	ID, Secret string
	CA         string // PEM file of the authority behind the server's certificate; "" = the system's
}

// LegacyBuckets are the predecessor's old ones: they are kept as they are.
func LegacyBuckets() []string {
	return []string{"comfy-multi-model-vault-backup", "comfy-multi-cache", "comfy-multi-user-files"}
}

// ParseTarget reads dir:/mnt/backup or s3:https://HOST/BUCKET[/PREFIX]. It reaches
// out to nothing.
func ParseTarget(spec string, legacy []string) (Target, error) {
	bad := func(format string, args ...any) (Target, error) {
		return Target{}, cluster.Errorf(cluster.Invalid, "--keep="+spec+": "+format, args...)
	}
	kind, rest, _ := strings.Cut(spec, ":")
	switch {
	case kind == "dir" && filepath.IsAbs(rest):
		return Target{Spec: spec, path: filepath.Clean(rest)}, nil
	case kind == "dir":
		return bad("name the whole path, e.g. --keep=dir:/mnt/backup")
	case kind != "s3":
		return bad("use dir: and a whole path (dir:/mnt/backup), or s3: and an address (s3:https://ACCOUNT.eu.r2.cloudflarestorage.com/BUCKET)")
	}
	u, err := url.Parse(rest)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad("write the address as s3:https://HOST/BUCKET or s3:https://HOST/BUCKET/FOLDER; keys go into R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY")
	}
	t := Target{still: stillFor, part: partSize, Spec: spec, host: strings.ToLower(u.Host), plain: u.Scheme == "http", region: "us-east-1"}
	if u.Scheme != "https" && !(t.plain && isLoopback(u.Hostname())) {
		return bad("a bucket is reached by https only")
	}
	if right, wrong := r2Host(t.host); wrong {
		return bad("%s is no address of Cloudflare R2; the right one is s3:https://%s%s", t.host, right, u.Path)
	}
	if strings.HasSuffix(t.host, r2Domain) {
		t.region = "auto"
	}
	t.bucket, t.prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	if t.bucket == "" {
		return bad("name the bucket behind the host: s3:https://%s/BUCKET", t.host)
	}
	if slices.Contains(legacy, t.bucket) {
		return bad("bucket %s is marked as legacy (--keep-legacy) and is never written to: make a new one", t.bucket)
	}
	if t.prefix != "" {
		t.prefix += "/"
	}
	return t, nil
}

// String is the target for people, without keys.
func (t Target) String() string {
	if t.path != "" {
		return t.path
	}
	scheme := "https://"
	if t.plain {
		scheme = "http://"
	}
	return scheme + t.host + "/" + t.bucket + "/" + t.prefix
}

// With gives the keys of a bucket.
func (t Target) With(k Keys) Target {
	t.keys = k
	return t
}

// Folder is its path, "" for a bucket.
func (t Target) Folder() string { return t.path }

// Bucket reports whether it is one.
func (t Target) Bucket() bool { return t.bucket != "" }

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

const r2Domain = ".r2.cloudflarestorage.com"

// r2Host mends a host that was meant to be Cloudflare R2's. The predecessor's
// notes had the region behind the domain, and uploads to it failed in silence.
func r2Host(host string) (right string, wrong bool) {
	if !strings.Contains(host, "cloudflarestorage") {
		return host, false
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	var account, region string
	for _, l := range labels {
		switch l {
		case "r2", "cloudflarestorage", "com":
		case "eu", "fedramp":
			region = "." + l
		default:
			if account == "" {
				account = l
			}
		}
	}
	if account == "" {
		account = "ACCOUNT"
	}
	right = account + region + r2Domain
	return right, right != host
}

// shelf opens the target.
func (t Target) shelf(log *slog.Logger) (shelf, error) {
	if t.path != "" {
		return folder{t.path}, nil
	}
	return newBucket(t, log)
}
