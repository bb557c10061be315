package comfy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// maxUnpacked bounds a stored body or history entry once unpacked, in bytes.
const maxUnpacked = 256 << 20

// Pack compresses a document for a row or a blob. Equal documents give equal
// bytes within one build; nothing may rely on more.
func Pack(raw []byte) []byte {
	w := packers.Get().(*zstd.Encoder)
	defer packers.Put(w)
	return w.EncodeAll(raw, nil)
}

// packers and unpackers are used again: making one costs more than most
// documents do.
var packers = sync.Pool{New: func() any {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		panic(err) // the options are valid ones
	}
	return w
}}

var unpackers = sync.Pool{New: func() any {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxUnpacked))
	if err != nil {
		panic(err) // the options are valid ones
	}
	return r
}}

// Unpack reads what Pack wrote.
func Unpack(b []byte) ([]byte, error) {
	r := unpackers.Get().(*zstd.Decoder)
	defer unpackers.Put(r)
	raw, err := r.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return raw, nil
}

// PackRequest is how a job row keeps a submit: the body without secrets,
// compressed, and the hash by which the same submit is known again.
func PackRequest(r *PromptRequest) (body []byte, hash string, err error) {
	clean := *r
	clean.Secrets = nil
	raw, err := clean.Encode()
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(raw)
	return Pack(raw), hex.EncodeToString(sum[:]), nil
}

// UnpackRequest reads a job row's body.
func UnpackRequest(body []byte) (*PromptRequest, error) {
	raw, err := Unpack(body)
	if err != nil {
		return nil, err
	}
	return ParsePromptRequest(raw)
}
