package cluster

import "hash/crc32"

// Digest adds up the rows of a table, in whatever order they come, to a number
// that two replicas compare. It finds mistakes, not malice.
type Digest struct{ total, row uint64 }

// FNV-1a's numbers; a row's fields are few and short.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Row begins a row of a table; kind keeps equal rows of two tables apart. What
// is written then belongs to it.
func (d *Digest) Row(kind string) *Digest {
	d.end()
	d.row = fnvOffset
	return d.Text(kind)
}

// Text adds a text.
func (d *Digest) Text(s string) *Digest {
	h := d.row
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	d.row = (h ^ 0xff) * fnvPrime // the end: "ab","c" is not "a","bc"
	return d
}

// Int adds a number.
func (d *Digest) Int(n int64) *Digest {
	h := d.row
	for range 8 {
		h = (h ^ uint64(n&0xff)) * fnvPrime
		n >>= 8
	}
	d.row = h
	return d
}

// Bool adds a yes or no.
func (d *Digest) Bool(b bool) *Digest {
	if b {
		return d.Int(1)
	}
	return d.Int(0)
}

// Bytes adds what may be large.
func (d *Digest) Bytes(b []byte) *Digest {
	return d.Int(int64(len(b))).Int(int64(crc32.Checksum(b, castagnoli)))
}

func (d *Digest) end() {
	if d.row != 0 {
		d.total += d.row ^ d.row>>29
	}
	d.row = 0
}

// Sum ends the last row and returns the total.
func (d *Digest) Sum() uint64 {
	d.end()
	return d.total
}
