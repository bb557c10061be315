package gossip_test

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/gossip"
)

const label = "\xf4\x08workshop"

// str writes text in MessagePack.
func str(s string) string {
	return "\xda" + string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

func exchange(count, appendix, nodes string) string {
	return "\x06\x83" + str("Nodes") + count + str("UserStateLen") + appendix + str("Join") + "\xc3" + nodes
}

// fields are those of a node's record or of an alive message of n7.
func fields(name, versions, meta string) string {
	return "\x87" + str("Name") + str(name) + str("Node") + str(name) + str("Addr") + str("\x64\x40\x00\x07") +
		str("Port") + "\xcd\x1f\x0a" + str("Meta") + str(meta) + str("Incarnation") + "\x01" + str("Vsn") + str(versions)
}

// malformed are messages of which most end a memberlist that reads them.
func malformed() []string {
	return []string{
		"", "\x06", "\x06\xff", exchange("\xff", "\x00", ""), exchange("\x00", "\xff", ""), exchange("\xce\x7f\xff\xff\xff", "\x00", ""),
		exchange("\x00", "\xce\x7f\xff\xff\xff", ""), exchange("\x01", "\x00", fields("n7", "\x01\x05", "")), exchange("\x01", "\x00", fields("n7", "", "")),
		"\x09\x82" + str("Algo") + "\x00" + str("Buf") + str("\x00\x01"), "\x09\x82" + str("Algo") + "\x00" + str("Buf") + str(""),
		"\x0a\xff\xff\xff\xff", "\x08\x81" + str("UserMsgLen") + "\xff", "\x00", "\x00\xc0", "\x02\x80", "\x63\x80",
		"\x04" + fields("n7", "\x01\x05", ""), "\x04" + fields("n7", "\x01\x05\x02", ""), "\x04" + fields("n7", "\x01\x05\x02\x00\x00\x00", strings.Repeat("x", 600)),
		"\x04" + fields("n1", "\x01\x05\x02\x00\x00\x00", "x"), "\x04" + fields("", "\x01\x05\x02\x00\x00\x00", ""),
		"\x07", "\x07\xff", "\x07\x01\xff\xff\x00", "\x07\x01\x00\x00", "\x07\x01\x00\x02\x07\x00", "\x0c\x00\x00\x00\x00\x00", "\x01\x80", "\x03\x80", "\x05\x80", "\x0b\x80",
	}
}

// TestMalformed sends rubbish from the address of a machine that may gossip:
// datagrams, streams, and answers to our own streams.
func TestMalformed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 2, nil)
		config(f, 7) // enters the address; nothing of ours runs there
		evil := machine{f, addr(7)}
		served := answers(t, evil)
		random := rand.New(rand.NewPCG(3, 4))
		messages := malformed()
		for range 200 {
			b := make([]byte, random.IntN(200))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			if len(b) > 0 {
				b[0] %= 14
			}
			messages = append(messages, string(b))
		}
		from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(7), cluster.PortGossip))
		for _, m := range messages {
			for _, n := range nodes {
				to := netip.AddrPortFrom(n.addr, cluster.PortGossip)
				f.send([]byte(label+m), from, net.UDPAddrFromAddrPort(to))
				f.send([]byte(m), from, net.UDPAddrFromAddrPort(to))
				c, err := evil.Dial(t.Context(), to.String())
				if err != nil {
					t.Fatal(err)
				}
				_ = c.SetDeadline(time.Now().Add(time.Second))
				_, _ = c.Write([]byte(label + m))
				_ = c.Close()
			}
			time.Sleep(100 * time.Millisecond)
		}
		stalled, err := evil.Dial(t.Context(), netip.AddrPortFrom(addr(1), cluster.PortGossip).String())
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := stalled.Read(make([]byte, 1)); err == nil || time.Since(begin) > 5*time.Second {
			t.Errorf("a silent stream was kept for %v: %v", time.Since(begin), err)
		}
		time.Sleep(12 * time.Second * time.Duration(len(malformed()))) // each answer is asked for once
		if got := int(served.Load()); got < len(malformed()) {
			t.Errorf("only %d answers were asked for", got)
		}
		if !together(nodes) || len(nodes[0].Members()) != 2 {
			t.Errorf("the rubbish was believed: %v", nodes[0].Members())
		}
		nodes = append(nodes, run(t, config(f, 3)))
		until(t, "a member joins after all that", 5*time.Second, func() bool { return together(nodes) })
	})
}

// TestForgedDatagrams: what could bury a member is not even read, unless it
// comes from one that may gossip. That one is believed until the buried objects.
func TestForgedDatagrams(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 3, nil)
		config(f, 7)
		buried := "\x05\x83" + str("Incarnation") + "\x64" + str("Node") + str("n2") + str("From") + str("n2")
		var packed bytes.Buffer
		w := lzw.NewWriter(&packed, lzw.LSB, 8)
		_, _ = w.Write([]byte(buried))
		_ = w.Close()
		compressed := "\x09\x82" + str("Algo") + "\x00" + str("Buf") + str(packed.String())
		at := func(i int) net.Addr {
			return net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(i), cluster.PortGossip))
		}
		seen := func(from int, message string) bool {
			f.send([]byte(message), at(from), at(1))
			for range 20 {
				time.Sleep(10 * time.Millisecond)
				if m, _ := nodes[0].State("n2"); m.State != gossip.Alive {
					return true
				}
			}
			return false
		}
		if seen(9, label+buried) {
			t.Error("a stranger buried a member")
		}
		if seen(7, buried) || seen(7, "\xf4\x08worksho_"+buried) {
			t.Error("a message of another workshop buried a member")
		}
		if seen(7, label+compressed) {
			t.Error("a message was decompressed")
		}
		if !seen(7, label+buried) {
			t.Error("the forgery is none: this test proves nothing")
		}
		t.Logf("the buried was back after %v", until(t, "objection", 5*time.Second, func() bool { return together(nodes) }))
	})
}

// answers gives a malformed answer to everybody who wants to exchange states.
func answers(t *testing.T, m machine) *atomic.Int32 {
	t.Helper()
	ln, err := m.Listen(cluster.PortGossip)
	if err != nil {
		t.Fatal(err)
	}
	served := new(atomic.Int32)
	done := make(chan struct{})
	t.Cleanup(func() { _ = ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Read(make([]byte, 1<<16))
			_, _ = c.Read(make([]byte, 1<<16))
			_, _ = c.Write([]byte(malformed()[int(served.Add(1))%len(malformed())]))
			_ = c.Close()
		}
	}()
	return served
}
