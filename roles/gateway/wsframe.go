package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"slices"
)

// The server's side of RFC 6455 below its handshake, for many sockets that are
// silent nearly always: taking apart what comes needs neither a goroutine nor a
// buffer while nothing comes.

// opcode says what a frame is.
type opcode byte

const (
	opContinue opcode = 0x0
	opText     opcode = 0x1
	opBinary   opcode = 0x2
	opClose    opcode = 0x8
	opPing     opcode = 0x9
	opPong     opcode = 0xa
)

func (o opcode) control() bool { return o&0x8 != 0 }

// The statuses that end a socket; RFC 6455, 7.4.1.
const (
	closeNormal    = 1000
	closeGoingAway = 1001
	closeProtocol  = 1002
	closePolicy    = 1008
)

// maxSaid is how long a frame of a page may be, in bytes, to be read at all: its
// feature flags are a few hundred. Longer ones are passed over.
const maxSaid = 16 << 10

// maxControl bounds the payload of a control frame, in bytes; RFC 6455, 5.5.
const maxControl = 125

// errProtocol is a client that does not speak the protocol.
var errProtocol = errors.New("this is not a WebSocket frame of a client")

// received is one frame of a client. Its payload is valid until the call ends
// that it was given to; it is nil for a frame that was passed over.
type received struct {
	op      opcode
	last    bool // of its message
	over    bool // it was passed over
	payload []byte
}

// inbound takes the bytes of a client apart. Of a frame that has not come whole
// it keeps at most maxSaid bytes and a header.
type inbound struct {
	rest []byte // a frame that has begun
	skip uint64 // bytes to come of a frame that is passed over
}

// feed takes what came, which it may write to, and calls take for each frame
// that is whole now. It stops at the first error, take's or its own.
func (in *inbound) feed(b []byte, take func(received) error) error {
	own := len(in.rest) > 0
	if own {
		b, in.rest = append(in.rest, b...), nil
	}
	for {
		n := min(in.skip, uint64(len(b)))
		in.skip -= n
		b = b[n:]
		h, size, err := parseHeader(b)
		if err != nil {
			return err
		}
		f := received{op: h.op, last: h.last, over: !h.op.control() && h.length > maxSaid}
		switch {
		case size == 0, !f.over && uint64(len(b)-size) < h.length:
			if !own {
				b = slices.Clone(b)
			}
			if in.rest = b; len(b) == 0 {
				in.rest = nil
			}
			return nil
		case f.over:
			in.skip, b = h.length, b[size:]
		default:
			f.payload, b = b[size:size+int(h.length)], b[size+int(h.length):] //nolint:gosec // at most maxSaid
			for i := range f.payload {
				f.payload[i] ^= h.mask[i%4]
			}
		}
		if err := take(f); err != nil {
			return err
		}
	}
}

// header is the beginning of a client's frame.
type header struct {
	op     opcode
	last   bool
	length uint64
	mask   [4]byte
}

// parseHeader reads a header and returns its size, 0 if it has not come whole.
func parseHeader(b []byte) (h header, size int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.op, h.last, h.length = opcode(b[0]&0xf), b[0]&0x80 != 0, uint64(b[1]&0x7f)
	switch {
	case b[0]&0x70 != 0, b[1]&0x80 == 0: // extensions were not agreed on; clients mask
		return h, 0, errProtocol
	case h.op > opBinary && h.op < opClose, h.op > opPong:
		return h, 0, errProtocol
	case h.op.control() && (!h.last || h.length > maxControl):
		return h, 0, errProtocol
	}
	at := 2
	switch h.length {
	case 126:
		at = 4
	case 127:
		at = 10
	}
	if len(b) < at+4 {
		return h, 0, nil
	}
	switch at {
	case 4:
		h.length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 10:
		h.length = binary.BigEndian.Uint64(b[2:])
		if h.length>>63 != 0 {
			return h, 0, errProtocol
		}
	}
	h.mask = [4]byte(b[at:])
	return h, at + 4, nil
}

// writeFrame writes one whole message of the server.
func writeFrame(w *bufio.Writer, op opcode, payload []byte) error {
	if _, err := w.Write(appendHeader(w.AvailableBuffer(), op, len(payload))); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// appendHeader appends the header of a whole message of n bytes.
func appendHeader(b []byte, op opcode, n int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case n < 126:
		return append(b, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
}

// closing is the payload of a close frame.
func closing(code uint16, reason string) []byte {
	out := binary.BigEndian.AppendUint16(nil, code)
	return append(out, reason[:min(len(reason), maxControl-2)]...)
}
