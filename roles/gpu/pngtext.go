package gpu

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/ahelme/comfyume/roles/comfy"
)

// pngReader copies a PNG and edits its text chunks on the way. What is not a
// PNG, or stops being one, passes as it is.
type pngReader struct {
	from io.Reader
	// edit returns the new text of a chunk; keep false leaves the chunk out, nil
	// leaves it as it is.
	edit func(keyword string) (text []byte, keep bool)

	out   bytes.Buffer // to be read first
	pass  int64        // then as many bytes as they come
	plain bool         // then all the rest as it comes
	begun bool
	err   error // of from, to be given once out is empty
}

const pngSignature = "\x89PNG\r\n\x1a\n"

// maxText is the largest text chunk that is edited, in bytes: workflows with
// pictures pasted into them are large.
const maxText = 256 << 20

func (r *pngReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.out.Len() == 0 && r.pass == 0 && !r.plain && r.err == nil {
		r.next()
	}
	switch {
	case r.out.Len() > 0:
		return r.out.Read(p)
	case r.err != nil:
		return 0, r.err
	case r.plain:
		return r.from.Read(p)
	}
	n, err := r.from.Read(p[:min(int64(len(p)), r.pass)])
	r.pass -= int64(n)
	return n, err
}

// take reads n bytes. What could be read is passed on when it is fewer.
func (r *pngReader) take(n int) ([]byte, bool) {
	var b bytes.Buffer // grows with what really comes, not with what a header claims
	_, err := io.CopyN(&b, r.from, int64(n))
	if err != nil {
		r.out.Write(b.Bytes())
		r.err = err
	}
	return b.Bytes(), err == nil
}

// next looks at one chunk.
func (r *pngReader) next() {
	if !r.begun {
		r.begun = true
		if sig, ok := r.take(len(pngSignature)); ok {
			r.plain = string(sig) != pngSignature
			r.out.Write(sig)
		}
		return
	}
	head, ok := r.take(8)
	if !ok {
		return
	}
	size, kind := binary.BigEndian.Uint32(head), string(head[4:])
	if !slices.Contains([]string{"tEXt", "zTXt", "iTXt"}, kind) || size > maxText {
		r.out.Write(head)
		r.pass, r.plain = int64(size)+4, kind == "IEND"
		if r.plain {
			r.pass = 0
		}
		return
	}
	data, ok := r.take(int(size) + 4)
	if !ok {
		rest := bytes.Clone(r.out.Bytes())
		r.out.Reset()
		r.out.Write(head)
		r.out.Write(rest)
		return
	}
	keyword, _, _ := bytes.Cut(data[:size], []byte{0})
	text, keep := r.edit(string(keyword))
	switch {
	case keep && text == nil:
		r.out.Write(head)
		r.out.Write(data)
	case keep:
		r.out.Write(textChunk(string(keyword), text))
	}
}

// textChunk makes a chunk of Latin-1 text, of which ASCII is a part.
func textChunk(keyword string, text []byte) []byte {
	body := append(append([]byte("tEXt"+keyword), 0), text...)
	out := binary.BigEndian.AppendUint32(nil, uint32(len(body)-4))
	return binary.BigEndian.AppendUint32(append(out, body...), crc32.ChecksumIEEE(body))
}

// ownText gives a picture the prompt of its user: ComfyUI wrote it with this
// machine's names in it. A picture out of ComfyUI's cache may carry what another
// user sent, so that one gets its user's own workflow, too.
func (a *attempt) ownText(cached bool) func(keyword string) (text []byte, keep bool) {
	var extra struct {
		Info comfy.Object `json:"extra_pnginfo"`
	}
	_ = json.Unmarshal(a.req.ExtraData, &extra) // a client without a page sends none
	return func(keyword string) ([]byte, bool) {
		switch {
		case keyword == "prompt":
			return asciiJSON(a.req.Prompt), true
		case keyword == "workflow" && cached:
			own, ok := extra.Info.Lookup("workflow")
			return asciiJSON(own), ok
		}
		return nil, true
	}
}

// asciiJSON writes a document's other characters as escapes.
func asciiJSON(doc json.RawMessage) []byte {
	ascii := true
	for _, c := range doc {
		ascii = ascii && c < utf8.RuneSelf
	}
	if ascii {
		return doc
	}
	var b strings.Builder
	escape := func(unit uint16) {
		const hex = "0123456789abcdef"
		b.WriteString(`\u`)
		for shift := 12; shift >= 0; shift -= 4 {
			b.WriteByte(hex[unit>>shift&15])
		}
	}
	for _, r := range string(doc) {
		switch {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escape(uint16(high))
			escape(uint16(low))
		default:
			escape(uint16(r))
		}
	}
	return []byte(b.String())
}
