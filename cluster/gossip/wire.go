package gossip

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// memberlist trusts what it reads: a state exchange that counts -1 nodes, a
// version list of two bytes or an empty compressed message is a panic, and so
// the end of the whole node. Its messages are therefore read here first, and
// only whole ones of the kinds we use are passed on. They are MessagePack in
// memberlist's own envelope.

// The kinds of message in memberlist's envelope.
const (
	pingKind     = 0
	indirectKind = 1
	ackKind      = 2
	suspectKind  = 3
	aliveKind    = 4
	deadKind     = 5
	syncKind     = 6
	compoundKind = 7
	nackKind     = 11
	crcKind      = 12
	errKind      = 13
	labelKind    = 244
)

// What one message may hold.
const (
	maxMessage = 1 << 20
	maxNodes   = 1024
	maxDepth   = 4
	versions   = 6 // of memberlist's protocol and of ours, three each
)

var (
	errKindUnknown = errors.New("a message of an unknown kind")
	errTooLong     = errors.New("a message is too long")
	errForeign     = errors.New("it is of another label")
	errOneMessage  = fmt.Errorf("one message was read from this stream: %w", io.EOF)
)

// checkPacket refuses a datagram of another label or with anything in it that
// memberlist would have to decompress or decrypt.
func checkPacket(b []byte, label string) error {
	if label != "" {
		n := 2 + len(label)
		if len(b) < n || b[0] != labelKind || int(b[1]) != len(label) || string(b[2:n]) != label {
			return errForeign
		}
		b = b[n:]
	}
	if len(b) > 5 && b[0] == crcKind {
		b = b[5:]
	}
	if len(b) < 2 || b[0] != compoundKind {
		return checkKind(b)
	}
	count := int(b[1])
	lengths, rest := b[2:], []byte(nil)
	if len(lengths) < 2*count {
		return errTooLong
	}
	lengths, rest = lengths[:2*count], lengths[2*count:]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n > len(rest) {
			return errTooLong
		}
		if err := checkKind(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func checkKind(b []byte) error {
	if len(b) == 0 {
		return errKindUnknown
	}
	switch b[0] {
	case pingKind, indirectKind, ackKind, nackKind, suspectKind, aliveKind, deadKind:
		return nil
	}
	return errKindUnknown
}

// reader reads one message of a stream and keeps its bytes.
type reader struct {
	r     *bufio.Reader
	taken []byte
}

func newReader(r io.Reader) *reader { return &reader{r: bufio.NewReader(r)} }

// take reads exactly n bytes.
func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || n > maxMessage-len(r.taken) {
		return nil, errTooLong
	}
	at := len(r.taken)
	for n > 0 { // in pieces: a length alone reserves no memory
		piece := min(n, 4096)
		r.taken = append(r.taken, make([]byte, piece)...)
		if _, err := io.ReadFull(r.r, r.taken[len(r.taken)-piece:]); err != nil {
			return nil, err
		}
		n -= piece
	}
	return r.taken[at:], nil
}

func (r *reader) byte() (byte, error) {
	b, err := r.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// number reads an unsigned integer of n bytes.
func (r *reader) number(n int) (uint64, error) {
	b, err := r.take(n)
	if err != nil {
		return 0, err
	}
	var wide [8]byte
	copy(wide[8-n:], b)
	return binary.BigEndian.Uint64(wide[:]), nil
}

// label reads the header that a stream opens with.
func (r *reader) label(want string) error {
	if want == "" {
		return nil // a header would be an unknown kind
	}
	head, err := r.take(2)
	if err != nil {
		return err
	}
	if head[0] != labelKind || int(head[1]) != len(want) {
		return errForeign
	}
	got, err := r.take(len(want))
	if err == nil && string(got) != want {
		err = errForeign
	}
	return err
}

// message reads one message and returns the nodes in it, if it is about nodes.
func (r *reader) message() ([]map[string]any, error) {
	kind, err := r.byte()
	if err != nil {
		return nil, err
	}
	switch kind {
	case pingKind, ackKind, errKind:
		_, err := r.fields()
		return nil, err
	case syncKind:
		return r.nodes()
	}
	return nil, errKindUnknown
}

func (r *reader) nodes() ([]map[string]any, error) {
	head, err := r.fields()
	if err != nil {
		return nil, err
	}
	count, ok := head["Nodes"].(int64)
	if !ok || count < 0 || count > maxNodes {
		return nil, errors.New("a state exchange without a sensible count")
	}
	if extra, _ := head["UserStateLen"].(int64); extra != 0 {
		return nil, errors.New("a state exchange with an appendix")
	}
	var nodes []map[string]any
	for range count {
		n, err := r.fields()
		if err != nil {
			return nil, err
		}
		if v, ok := n["Vsn"].([]byte); !ok || len(v) != versions {
			return nil, errors.New("a node without its versions")
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// fields reads a MessagePack map, the form of every message and node.
func (r *reader) fields() (map[string]any, error) {
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("a message that is no map")
	}
	return m, nil
}

// value reads one MessagePack value: nil, bool, int64, []byte (text too),
// []any or map[string]any. No message of memberlist has another type.
func (r *reader) value(depth int) (any, error) {
	c, err := r.byte()
	if err != nil {
		return nil, err
	}
	switch {
	case depth > maxDepth:
		return nil, errTooLong
	case c <= 0x7f:
		return int64(c), nil
	case c >= 0xe0:
		return int64(int8(c)), nil
	case c <= 0x8f:
		return r.table(int(c&0x0f), depth)
	case c <= 0x9f:
		return r.list(int(c&0x0f), depth)
	case c <= 0xbf:
		return r.take(int(c & 0x1f))
	case c == 0xc0:
		return nil, nil
	case c == 0xc2, c == 0xc3:
		return c == 0xc3, nil
	case c >= 0xcc && c <= 0xcf:
		n, err := r.number(1 << (c - 0xcc))
		if n > math.MaxInt64 {
			err = errors.Join(err, errTooLong)
		}
		return int64(n), err
	case c >= 0xd0 && c <= 0xd3:
		width := 1 << (c - 0xd0)
		n, err := r.number(width)
		shift := 64 - 8*width
		return int64(n<<shift) >> shift, err
	}
	return r.long(c, depth)
}

// long reads what has its length in front.
func (r *reader) long(c byte, depth int) (any, error) {
	width, ok := map[byte]int{
		0xc4: 1, 0xc5: 2, 0xc6: 4, // bytes
		0xd9: 1, 0xda: 2, 0xdb: 4, // text
		0xdc: 2, 0xdd: 4, // list
		0xde: 2, 0xdf: 4, // map
	}[c]
	if !ok {
		return nil, fmt.Errorf("a value of an unexpected type %#x", c)
	}
	n, err := r.number(width)
	if err != nil {
		return nil, err
	}
	switch c {
	case 0xdc, 0xdd:
		return r.list(int(n), depth)
	case 0xde, 0xdf:
		return r.table(int(n), depth)
	}
	return r.take(int(n))
}

func (r *reader) list(n, depth int) (any, error) {
	var out []any
	for range n {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (r *reader) table(n, depth int) (any, error) {
	out := map[string]any{}
	for range n {
		k, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		key, ok := k.([]byte)
		if !ok {
			return nil, errors.New("a map with a key that is no text")
		}
		if out[string(key)], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}
