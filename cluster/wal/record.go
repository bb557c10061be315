package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// Layout of a record, little-endian, at a multiple of 8:
//
//	0  u32 length of the data
//	4  u32 CRC-32C of everything else
//	8  u64 entry
//	16 u64 flush
//	24 u32 how many records of the same flush came before
//	28 u32 how many follow
//	32 data, then zeros up to a multiple of 8
const recordHead = 32

// maxData bounds what a damaged length can make a reader allocate.
const maxData = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type record struct {
	index        uint64
	flush        uint64
	before, left uint32
}

// begin is the first entry of the record's flush.
func (r record) begin() uint64 { return r.index - uint64(r.before) }

// appendRecord appends a record to b, whose length is a multiple of 8.
func appendRecord(b []byte, r record, data []byte) []byte {
	start := len(b)
	var head [recordHead]byte
	binary.LittleEndian.PutUint32(head[0:], uint32(len(data))) //nolint:gosec // at most maxData
	binary.LittleEndian.PutUint64(head[8:], r.index)
	binary.LittleEndian.PutUint64(head[16:], r.flush)
	binary.LittleEndian.PutUint32(head[24:], r.before)
	binary.LittleEndian.PutUint32(head[28:], r.left)
	b = append(append(b, head[:]...), data...)
	binary.LittleEndian.PutUint32(b[start+4:], checksum(b[start:]))
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// checksum covers a record without its padding and the checksum's own place.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:])
}

// parseRecord reads the record at the beginning of b and returns how many bytes
// it takes. False: there is no valid one.
func parseRecord(b []byte) (r record, data []byte, size int, ok bool) {
	if len(b) < recordHead {
		return r, nil, 0, false
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > maxData || n > len(b)-recordHead {
		return r, nil, 0, false
	}
	r = record{
		index: binary.LittleEndian.Uint64(b[8:]), flush: binary.LittleEndian.Uint64(b[16:]),
		before: binary.LittleEndian.Uint32(b[24:]), left: binary.LittleEndian.Uint32(b[28:]),
	}
	// An entry's number is never 0: zeros are no record, whatever their checksum is.
	if r.index == 0 || checksum(b[:recordHead+n]) != binary.LittleEndian.Uint32(b[4:]) {
		return r, nil, 0, false
	}
	return r, b[recordHead : recordHead+n], min((recordHead+n+7)&^7, len(b)), true
}
