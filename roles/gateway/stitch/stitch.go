// Package stitch makes one gzip stream of pieces that were compressed before:
// an answer of thousands of workflows costs no more than copying them. It
// promises the bytes that compressing all of it at once would unpack to. It
// refuses to hold anything: who makes pieces keeps them.
package stitch

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
)

// Piece is a part of a text, compressed so that it can stand anywhere in a
// stream. It never changes.
type Piece struct {
	packed []byte // flate blocks up to a byte's edge, none of them the last
	size   int    // of the text, in bytes
	sum    uint32 // CRC-32 of the text
	shift  uint32 // x^(8*size) modulo the polynomial: what size bytes do to a sum before them
}

// Cost is about what a piece takes in memory, in bytes.
func (p *Piece) Cost() int { return len(p.packed) + 64 }

// Size is the length of the text, in bytes.
func (p *Piece) Size() int { return p.size }

var writers = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is a valid one
	}
	return w
}}

// Pack makes a piece of a text.
func Pack(text []byte) (*Piece, error) {
	w := writers.Get().(*flate.Writer)
	defer writers.Put(w)
	var buf bytes.Buffer
	w.Reset(&buf)
	if _, err := w.Write(text); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Flush(); err != nil { // to a byte's edge
		return nil, fmt.Errorf("compress: %w", err)
	}
	return &Piece{packed: bytes.Clone(buf.Bytes()), size: len(text), sum: crc32.ChecksumIEEE(text), shift: xPower(uint64(len(text)) * 8)}, nil
}

// Writer puts pieces and plain text together. Its zero value is ready.
type Writer struct {
	parts []part
	bytes int // of the stream, without its two ends
}

// part is a text or a piece.
type part struct {
	text  string
	piece *Piece
}

// maxStored is the longest text of a block that is not compressed, and perBlock
// what such a block costs.
const (
	maxStored = 65535
	perBlock  = 5
)

// Text adds a text as it is: for the few bytes between pieces.
func (w *Writer) Text(text string) {
	w.parts = append(w.parts, part{text: text})
	w.bytes += len(text) + (len(text)+maxStored-1)/maxStored*perBlock
}

// Piece adds a piece.
func (w *Writer) Piece(p *Piece) {
	w.parts = append(w.parts, part{piece: p})
	w.bytes += len(p.packed)
}

// header of a gzip stream without a name and a time.
var header = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

// Bytes returns the whole stream, in memory of its own that is no larger.
func (w *Writer) Bytes() []byte {
	out := make([]byte, 0, len(header)+w.bytes+perBlock+8)
	out = append(out, header...)
	var sum, size uint32
	for _, p := range w.parts {
		if p.piece != nil {
			out = append(out, p.piece.packed...)
			sum = product(sum, p.piece.shift) ^ p.piece.sum
			size += uint32(p.piece.size) //nolint:gosec // gzip keeps the size modulo 2^32
			continue
		}
		sum = crc32.Update(sum, crc32.IEEETable, []byte(p.text))
		size += uint32(len(p.text)) //nolint:gosec // likewise
		out = stored(out, p.text)
	}
	out = append(out, 1, 0, 0, 0xff, 0xff) // an empty last block
	out = binary.LittleEndian.AppendUint32(out, sum)
	return binary.LittleEndian.AppendUint32(out, size)
}

// stored appends blocks that are not compressed.
func stored(out []byte, text string) []byte {
	for len(text) > 0 {
		n := min(len(text), maxStored)
		out = append(out, 0)
		out = binary.LittleEndian.AppendUint16(out, uint16(n))  //nolint:gosec // at most maxStored
		out = binary.LittleEndian.AppendUint16(out, ^uint16(n)) //nolint:gosec // likewise
		out = append(out, text[:n]...)
		text = text[n:]
	}
	return out
}

// A CRC is a polynomial over the field of two elements, its highest power in the
// lowest bit. That of a text followed by another is the first one's times
// x^(length of the second in bits), plus the second one's.

// product multiplies two of them modulo the polynomial of CRC-32.
func product(a, b uint32) (p uint32) {
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			p ^= b
		}
		low := b & 1
		b >>= 1
		if low != 0 {
			b ^= crc32.IEEE
		}
	}
	return p
}

// xPower is x^n modulo the polynomial.
func xPower(n uint64) uint32 {
	result, square := uint32(1)<<31, uint32(1)<<30 // x^0, x^1
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			result = product(result, square)
		}
		square = product(square, square)
	}
	return result
}
