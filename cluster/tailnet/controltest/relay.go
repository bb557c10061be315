package controltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// relay is what nodes need to find each other: a DERP and a STUN server.
type relay struct {
	ip      netip.Addr
	derp    *derpserver.Server
	web     *http.Server
	ln      net.Listener
	stun    *net.UDPConn
	running sync.WaitGroup
}

func startRelay(ip netip.Addr, logf logger.Logf) (*relay, error) {
	cert, err := selfSigned(ip)
	if err != nil {
		return nil, fmt.Errorf("make the relay's certificate: %w", err)
	}
	r := &relay{ip: ip, derp: derpserver.New(key.NewNode(), logf)}
	// A connection of the relay is an upgraded one of HTTP/1.
	r.web = &http.Server{
		Handler: derpserver.Handler(r.derp), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(logger.FuncWriter(logf), "", 0),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	r.ln, err = tls.Listen("tcp", netip.AddrPortFrom(ip, 0).String(), &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for the relay: %w", err), r.derp.Close())
	}
	r.stun, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for STUN: %w", err), r.ln.Close(), r.derp.Close())
	}
	r.running.Go(func() { _ = r.web.Serve(r.ln) }) // ends by close
	r.running.Go(r.answer)
	return r, nil
}

// answer tells nodes their own address, until close.
func (r *relay) answer() {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.stun.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if tx, err := stun.ParseBindingRequest(buf[:n]); err == nil {
			_, _ = r.stun.WriteToUDPAddrPort(stun.Response(tx, from), from) // a lost answer is asked for again
		}
	}
}

func (r *relay) derpMap() *tailcfg.DERPMap {
	ip := r.ip.String()
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {
		RegionID: 1, RegionCode: "test", RegionName: "this machine",
		Nodes: []*tailcfg.DERPNode{{
			Name: "1a", RegionID: 1, HostName: ip, IPv4: ip, IPv6: "none", STUNTestIP: ip, InsecureForTests: true,
			STUNPort: r.stun.LocalAddr().(*net.UDPAddr).Port, DERPPort: r.ln.Addr().(*net.TCPAddr).Port,
		}},
	}}}
}

func (r *relay) close() error {
	err := errors.Join(r.derp.Close(), r.web.Close(), r.stun.Close())
	r.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // for the second time
	}
	return err
}

// selfSigned is a certificate that only nodes told not to look take.
func selfSigned(ip netip.Addr) (tls.Certificate, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour), IPAddresses: []net.IP{ip.AsSlice()}}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, &priv.PublicKey, priv)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}, nil
}

// random is 16 bytes that nobody guesses, in hex.
func random() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
