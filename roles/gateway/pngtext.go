package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ahelme/comfyume/cluster"
)

const (
	pngSignature = "\x89PNG\r\n\x1a\n"
	pngHeaderEnd = len(pngSignature) + 25 // behind IHDR, the first chunk
	maxTexts     = 16 << 20               // bytes of text chunks that are carried over
)

// pngTexts returns the text chunks of a picture, whole: the workflow that made
// it stands there. A picture that is no PNG has none.
func (g *Gateway) pngTexts(c *call, ref cluster.Ref) ([]byte, error) {
	f, err := g.cfg.Blobs.Open(c, ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sig := make([]byte, len(pngSignature))
	if _, err := io.ReadFull(f, sig); err != nil || string(sig) != pngSignature {
		return nil, nil
	}
	var texts []byte
	for {
		var head [8]byte
		if _, err := io.ReadFull(f, head[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return texts, nil
		} else if err != nil {
			return nil, fmt.Errorf("read a picture: %w", err)
		}
		size := int64(binary.BigEndian.Uint32(head[:4])) + 4 // and its sum
		switch kind := string(head[4:]); {
		case kind == "IEND":
			return texts, nil
		case (kind == "tEXt" || kind == "zTXt" || kind == "iTXt") && int64(len(texts))+size < maxTexts:
			body := make([]byte, size)
			if _, err := io.ReadFull(f, body); err != nil {
				return texts, nil
			}
			texts = append(append(texts, head[:]...), body...)
		default:
			if _, err := f.Seek(size, io.SeekCurrent); err != nil {
				return nil, fmt.Errorf("read a picture: %w", err)
			}
		}
	}
}

// withTexts puts text chunks into a PNG that was just encoded.
func withTexts(picture, texts []byte) []byte {
	if len(texts) == 0 {
		return picture
	}
	out := make([]byte, 0, len(picture)+len(texts))
	out = append(append(out, picture[:pngHeaderEnd]...), texts...)
	return append(out, picture[pngHeaderEnd:]...)
}
