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
	buf  []byte
	sum  uint32
	size uint32
}

// header of a gzip stream without a name and a time.
var header = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

func (w *Writer) begin() {
	if w.buf == nil {
		w.buf = append(make([]byte, 0, 64<<10), header...)
	}
}

// maxStored is the longest text of a block that is not compressed.
const maxStored = 65535

// Text adds a text as it is: for the few bytes between pieces.
func (w *Writer) Text(text string) {
	w.begin()
	w.sum = crc32.Update(w.sum, crc32.IEEETable, []byte(text))
	w.size += uint32(len(text)) //nolint:gosec // gzip keeps the size modulo 2^32
	for len(text) > 0 {
		n := min(len(text), maxStored)
		w.buf = append(w.buf, 0)
		w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(n))  //nolint:gosec // at most maxStored
		w.buf = binary.LittleEndian.AppendUint16(w.buf, ^uint16(n)) //nolint:gosec // likewise
		w.buf = append(w.buf, text[:n]...)
		text = text[n:]
	}
}

// Piece adds a piece.
func (w *Writer) Piece(p *Piece) {
	w.begin()
	w.buf = append(w.buf, p.packed...)
	w.sum = product(w.sum, p.shift) ^ p.sum
	w.size += uint32(p.size) //nolint:gosec // gzip keeps the size modulo 2^32
}

// Bytes ends the stream and returns all of it.
func (w *Writer) Bytes() []byte {
	w.begin()
	w.buf = append(w.buf, 1, 0, 0, 0xff, 0xff) // an empty last block
	w.buf = binary.LittleEndian.AppendUint32(w.buf, w.sum)
	return binary.LittleEndian.AppendUint32(w.buf, w.size)
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
