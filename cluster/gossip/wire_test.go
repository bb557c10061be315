package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

// str and node write MessagePack for tests, as memberlist does.
func str(s string) string {
	return "\xda" + string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

func node(name, versions string) string {
	return "\x87" + str("Name") + str(name) + str("Addr") + str("\x64\x40\x00\x01") + str("Port") + "\xcd\x1f\x0a" +
		str("Meta") + str("\xa1\x01\x61x") + str("Incarnation") + "\x01" + str("State") + "\x01" + str("Vsn") + str(versions)
}

func exchange(count, extra string, nodes ...string) string {
	return "\x06\x83" + str("Nodes") + count + str("UserStateLen") + extra + str("Join") + "\xc3" + strings.Join(nodes, "")
}

func TestOneMessage(t *testing.T) {
	six := "\x01\x05\x02\x00\x00\x00"
	good := exchange("\x02", "\x00", node("a", six), node("b", six))
	r := newReader(strings.NewReader(good + "more"))
	nodes, err := r.message()
	if err != nil || len(nodes) != 2 || string(r.taken) != good {
		t.Fatalf("%d nodes, %d of %d bytes, %v", len(nodes), len(r.taken), len(good), err)
	}
	e, err := entryOf(nodes[1])
	if err != nil || e.id != "b" || e.addr.String() != "100.64.0.1" || e.state != Slow || string(e.meta) != "\xa1\x01\x61x" {
		t.Errorf("read %+v, %v", e, err)
	}
	for n := range len(good) {
		if _, err := newReader(strings.NewReader(good[:n])).message(); err == nil {
			t.Fatalf("the first %d bytes count as a message", n)
		}
	}
	for name, bad := range map[string]string{
		"negative count":        exchange("\xff", "\x00"),
		"more negative":         exchange("\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "\x00"),
		"huge count":            exchange("\xce\x7f\xff\xff\xff", "\x00"),
		"negative appendix":     exchange("\x00", "\xff"),
		"huge appendix":         exchange("\x00", "\xce\x7f\xff\xff\xff"),
		"count that is text":    exchange(str("2"), "\x00"),
		"no versions":           exchange("\x01", "\x00", node("a", "")),
		"three versions":        exchange("\x01", "\x00", node("a", six[:3])),
		"compressed":            "\x09\x82" + str("Algo") + "\x00" + str("Buf") + str(""),
		"encrypted":             "\x0a\x00\x00\x00\x00",
		"for a user":            "\x08\x81" + str("UserMsgLen") + "\xce\x7f\xff\xff\xff",
		"deep":                  "\x00" + strings.Repeat("\x91", 1000),
		"long":                  "\x00\x81" + str("Node") + "\xdb\xff\xff\xff\xff",
		"a key that is no text": "\x00\x81\x01\x01",
		"a float":               "\x00\x81" + str("SeqNo") + "\xcb\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		if _, err := newReader(strings.NewReader(bad + strings.Repeat("\x00", 64))).message(); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
}

func TestLabelOfStream(t *testing.T) {
	for _, c := range []struct {
		sent, want string
		ok         bool
	}{
		{"\xf4\x01a", "a", true},
		{"", "", true},
		{"\xf4\x01a", "b", false},
		{"\xf4\x02ab", "a", false},
		{"\x06", "a", false},
		{"", "a", false},
		{"\xf4\x09a", "a", false},
	} {
		if err := newReader(strings.NewReader(c.sent)).label(c.want); (err == nil) != c.ok {
			t.Errorf("%q for label %q: %v", c.sent, c.want, err)
		}
	}
}

func TestCheckPacket(t *testing.T) {
	l := "\xf4\x01a"
	for name, c := range map[string]struct {
		packet string
		ok     bool
	}{
		"ping":               {l + "\x00x", true},
		"with checksum":      {l + "\x0c\x01\x02\x03\x04\x00x", true},
		"compound":           {l + "\x07\x02\x00\x01\x00\x02\x03\x04x", true},
		"no label":           {"\x00x", false},
		"foreign":            {"\xf4\x01b\x00x", false},
		"longer label":       {"\xf4\x02ab\x00x", false},
		"only a label":       {l, false},
		"empty":              {"", false},
		"compressed":         {l + "\x09x", false},
		"compressed within":  {l + "\x07\x01\x00\x01\x09", false},
		"nested":             {l + "\x07\x01\x00\x02\x07\x00", false},
		"truncated lengths":  {l + "\x07\x09\x00\x01", false},
		"truncated part":     {l + "\x07\x01\x00\x09\x00", false},
		"empty part":         {l + "\x07\x01\x00\x00", false},
		"for a user":         {l + "\x08x", false},
		"two checksums":      {l + "\x0c\x01\x02\x03\x04\x0c\x01\x02\x03\x04\x00", false},
		"unknown":            {l + "\x63", false},
		"a label in a label": {l + l + "\x00x", false},
	} {
		if err := checkPacket([]byte(c.packet), "a"); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(request))
	f.Add([]byte(exchange("\x01", "\x00", node("a", "\x01\x05\x02\x00\x00\x00"))))
	f.Add([]byte("\x00\x81" + str("SeqNo") + "\xd1\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(bytes.NewReader(b))
		nodes, err := r.message()
		if !bytes.HasPrefix(b, r.taken) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Error("the bytes taken are not those sent")
		}
		for _, n := range nodes {
			_, _ = entryOf(n)
		}
		_ = checkPacket(b, "")
	})
}
