package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fromClient is a client's frame, masked.
func fromClient(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0xa1, 0x00, 0xff, 0x5c}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// got is a received frame with a payload of its own.
type got struct {
	Op         opcode
	Last, Over bool
	Payload    string
}

// feedAll feeds b in pieces of at most size bytes.
func feedAll(b []byte, size int) (out []got, err error) {
	var in inbound
	for piece := range slices.Chunk(bytes.Clone(b), size) {
		err = in.feed(piece, func(f received) error {
			out = append(out, got{f.op, f.last, f.over, string(f.payload)})
			return nil
		})
		if err != nil {
			return out, err
		}
		if len(in.rest) > maxSaid+14 {
			return out, errors.New("it keeps more than a frame")
		}
	}
	return out, nil
}

func TestFramesOfAClient(t *testing.T) {
	long, tooLong := strings.Repeat("l", maxSaid), strings.Repeat("t", 70_000)
	raw := slices.Concat(
		fromClient(0x81, "hello"), fromClient(0x01, "in "), fromClient(0x89, "ping"), fromClient(0x80, "two"),
		fromClient(0x82, long), fromClient(0x82, tooLong), fromClient(0x8a, ""), fromClient(0x88, "\x03\xe8"),
	)
	want := []got{
		{opText, true, false, "hello"},
		{opText, false, false, "in "},
		{opPing, true, false, "ping"},
		{opContinue, true, false, "two"},
		{opBinary, true, false, long},
		{opBinary, true, true, ""},
		{opPong, true, false, ""},
		{opClose, true, false, "\x03\xe8"},
	}
	for _, size := range []int{1, 2, 3, 5, 7, 4096, len(raw)} {
		frames, err := feedAll(raw, size)
		if d := cmp.Diff(want, frames); d != "" || err != nil {
			t.Errorf("in pieces of %d: %v %.500s", size, err, d)
		}
	}
	for what, bad := range map[string][]byte{
		"not masked":           {0x81, 1, 'x'},
		"an extension":         fromClient(0xc1, "x"),
		"an unknown kind":      fromClient(0x83, "x"),
		"an unknown control":   fromClient(0x8b, "x"),
		"a ping in two frames": fromClient(0x09, "x"),
		"a ping too long":      fromClient(0x89, strings.Repeat("x", 126)),
		"a negative length":    {0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
	} {
		if frames, err := feedAll(bad, len(bad)); !errors.Is(err, errProtocol) || len(frames) > 0 {
			t.Errorf("%s: %v %v", what, frames, err)
		}
	}
}

// FuzzFramesOfAClient: whatever comes, in whatever pieces, it is taken apart in
// the same way, and what is kept stays small.
func FuzzFramesOfAClient(f *testing.F) {
	f.Add(fromClient(0x81, "hello"), 1)
	f.Add(slices.Concat(fromClient(0x01, "a"), fromClient(0x89, ""), fromClient(0x80, "b")), 3)
	f.Add([]byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5}, 2)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		if len(raw) == 0 {
			return
		}
		whole, err := feedAll(raw, len(raw))
		pieces, perr := feedAll(raw, min(max(size, 1), len(raw)))
		if !slices.Equal(whole, pieces) || (err == nil) != (perr == nil) {
			t.Errorf("%v %v %s", err, perr, cmp.Diff(whole, pieces))
		}
	})
}

// FuzzFramesOfTheServer: what is written has the length that its header says.
func FuzzFramesOfTheServer(f *testing.F) {
	for _, n := range []int{0, 125, 126, 1<<16 - 1, 1 << 16} {
		f.Add(make([]byte, n))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var out bytes.Buffer
		w := bufio.NewWriterSize(&out, 64)
		if err := errors.Join(writeFrame(w, opBinary, payload), w.Flush()); err != nil {
			t.Fatal(err)
		}
		b := out.Bytes()
		n, at := uint64(b[1]), 2
		switch n {
		case 126:
			n, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case 127:
			n, at = binary.BigEndian.Uint64(b[2:]), 10
		}
		if b[0] != 0x82 || n != uint64(len(payload)) || !bytes.Equal(b[at:], payload) {
			t.Errorf("%d bytes: header % x", len(payload), b[:at])
		}
	})
}
