package sketch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
	"unicode/utf8"
)

// textChunk is one piece of text inside a PNG; ComfyUI keeps the prompt and the
// workflow there, so that a picture can be dropped on a page and edited on.
type textChunk struct {
	key  string
	text []byte // ASCII
}

// pngHead is the length of the signature and the header chunk.
const pngHead = 8 + 4 + 4 + 13 + 4

// insertText puts tEXt chunks right after the header.
func insertText(png []byte, chunks []textChunk) ([]byte, error) {
	if len(png) < pngHead || string(png[12:16]) != "IHDR" {
		return nil, fmt.Errorf("write PNG text: not a PNG")
	}
	out := bytes.NewBuffer(make([]byte, 0, len(png)+1024))
	out.Write(png[:pngHead])
	for _, c := range chunks {
		body := append([]byte("tEXt"+c.key+"\x00"), c.text...)
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(body)-4))
		out.Write(n[:])
		out.Write(body)
		binary.BigEndian.PutUint32(n[:], crc32.ChecksumIEEE(body))
		out.Write(n[:])
	}
	out.Write(png[pngHead:])
	return out.Bytes(), nil
}

// ascii writes JSON with \u escapes for all that is not ASCII: tEXt holds Latin-1
// only, and Python's json writes it so, too.
func ascii(raw json.RawMessage) []byte {
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		switch {
		case r < utf8.RuneSelf:
			out = append(out, raw[0])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		raw = raw[n:]
	}
	return out
}
