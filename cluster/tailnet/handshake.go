package tailnet

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Every connection in a hall begins with a proof, both ways, that its ends
// know the hall's secret, who they are and which port is meant:
//
//	dialer                                      listener
//	  magic, nonce, port, its id  ------------>
//	  <------------ nonce, its id, HMAC("accept", all of it)
//	  HMAC("dial", all of it)     ------------>
//	  <------------ one byte: welcome
//
// Who does not know the secret learns nothing but that a node listens. The
// bytes that follow are not encrypted: they do not leave this machine.
const (
	magic         = "comfyume-hall-1\n"
	nonceSize     = 32
	idSize        = 17
	macSize       = sha256.Size
	welcome       = '.'
	handshakeTime = 5 * time.Second // for the dialer to prove itself
	maxHandshakes = 128             // under way, or waiting for Accept, on one listener
)

// parties is what both ends sign.
type parties struct {
	dialer, listener           cluster.NodeID
	dialerNonce, listenerNonce []byte
	port                       uint16
}

func (h *hall) sign(role string, p parties) []byte {
	m := hmac.New(sha256.New, h.secret)
	m.Write([]byte(role))
	m.Write(p.dialerNonce)
	m.Write(p.listenerNonce)
	m.Write([]byte(p.dialer))
	m.Write([]byte(p.listener))
	m.Write(binary.BigEndian.AppendUint16(nil, p.port))
	return m.Sum(nil)
}

// introduce is the dialer's part.
func (h *hall) introduce(c net.Conn, me, to cluster.NodeID, port uint16) error {
	p := parties{dialer: me, listener: to, dialerNonce: random(nonceSize), port: port}
	hello := binary.BigEndian.AppendUint16(append([]byte(magic), p.dialerNonce...), port)
	if _, err := c.Write(append(hello, me...)); err != nil {
		return fmt.Errorf("introduce this node: %w", err)
	}
	answer := make([]byte, nonceSize+idSize+macSize)
	if _, err := io.ReadFull(c, answer); err != nil {
		return fmt.Errorf("hear who listens: %w", err)
	}
	p.listenerNonce = answer[:nonceSize]
	id, mac := answer[nonceSize:nonceSize+idSize], answer[nonceSize+idSize:]
	if string(id) != string(to) || !hmac.Equal(mac, h.sign("accept", p)) {
		return cluster.Errorf(cluster.Forbidden, "What listens there is not the node %s of this workshop; another program has taken its port.", to)
	}
	if _, err := c.Write(h.sign("dial", p)); err != nil {
		return fmt.Errorf("prove who this is: %w", err)
	}
	ok := make([]byte, 1)
	if _, err := io.ReadFull(c, ok); err != nil || ok[0] != welcome {
		return fmt.Errorf("wait to be let in: %w", errors.Join(err, cluster.Errorf(cluster.Forbidden, "The node %s did not let this one in.", to)))
	}
	return nil
}

// receive is the listener's part and gives who dialed.
func (h *hall) receive(c net.Conn, me cluster.NodeID, port uint16) (who registration, err error) {
	hello := make([]byte, len(magic)+nonceSize+2+idSize)
	if _, err := io.ReadFull(c, hello); err != nil {
		return who, err
	}
	rest, ok := bytes.CutPrefix(hello, []byte(magic))
	if !ok || binary.BigEndian.Uint16(rest[nonceSize:]) != port {
		return who, cluster.Errorf(cluster.Forbidden, "not a node's greeting")
	}
	p := parties{dialerNonce: rest[:nonceSize], listenerNonce: random(nonceSize), port: port, dialer: cluster.NodeID(rest[nonceSize+2:]), listener: me}
	if _, err := c.Write(append(append(bytes.Clone(p.listenerNonce), me...), h.sign("accept", p)...)); err != nil {
		return who, err
	}
	mac := make([]byte, macSize)
	if _, err := io.ReadFull(c, mac); err != nil {
		return who, err
	}
	if !hmac.Equal(mac, h.sign("dial", p)) {
		return who, cluster.Errorf(cluster.Forbidden, "not a member")
	}
	// A member's id is a file name only after it is known to be one.
	if !validID(string(p.dialer)) {
		return who, cluster.Errorf(cluster.Forbidden, "not a node's id")
	}
	if who, ok = h.read(p.dialer); !ok {
		return who, unknown(string(p.dialer))
	}
	_, err = c.Write([]byte{welcome})
	return who, err
}

// hallListener gives connections of members only.
type hallListener struct {
	raw   *net.TCPListener
	at    netip.AddrPort
	of    *hallNode
	queue chan net.Conn // unbuffered, never closed
	once  sync.Once
	done  chan struct{} // closed by Close
}

func (l *hallListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func (l *hallListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *hallListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.done)
		l.of.drop(l)
		err = errors.Join(l.raw.Close(), l.of.release(l.of.me.TCP, l.at.Port()))
	})
	return err
}

// serve hears each caller out on its own, so that a slow one holds up nobody.
func (l *hallListener) serve() {
	slots := make(chan struct{}, maxHandshakes)
	for {
		raw, err := l.raw.AcceptTCP()
		if err != nil {
			select {
			case <-l.done:
				return
			case <-time.After(10 * time.Millisecond): // out of file descriptors, say
				continue
			}
		}
		select {
		case slots <- struct{}{}:
			l.of.users.Go(func() {
				defer func() { <-slots }()
				l.hear(raw)
			})
		default:
			_ = raw.Close() // too many at once; the dialer sees it
		}
	}
}

func (l *hallListener) hear(raw *net.TCPConn) {
	c := &hallConn{TCPConn: raw, of: l.of, local: l.Addr(), remote: raw.RemoteAddr()}
	if l.of.keep(c) != nil {
		return
	}
	err := raw.SetDeadline(time.Now().Add(handshakeTime))
	var who registration
	if err == nil {
		who, err = l.of.hall.receive(raw, l.of.me.ID, l.at.Port())
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close() // a stranger is not told why
		return
	}
	c.remote = at(who.Addr, raw.RemoteAddr())
	l.of.met.Store(who.Addr, who.identity())
	select {
	case l.queue <- c:
	case <-l.done:
		_ = c.Close() // nobody accepts it any more
	}
}
