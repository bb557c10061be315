package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/certificate"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// openDoor listens where browsers come in: over TLS if there is a certificate.
func (a *Agent) openDoor() (err error) {
	if a.cfg.TLSCert != "" {
		a.certificate, err = certificate.Load(certificate.Config{Cert: a.cfg.TLSCert, Key: a.cfg.TLSKey, Host: a.cfg.Domain, Logger: a.cfg.Logger})
		if err != nil {
			return err
		}
		a.stack.run("certificate", a.certificate.Run)
	}
	if a.door, err = listen("gateway-listen", a.cfg.GatewayListen); err != nil {
		return err
	}
	a.stack.push("door", func(context.Context) error { return closed(a.door.Close()) })
	if a.certificate != nil {
		a.door = a.certificate.Listen(a.door)
		return a.openRedirect()
	}
	if ap, err := netip.ParseAddrPort(a.door.Addr().String()); err == nil && !ap.Addr().IsLoopback() {
		a.log.Warn("the door speaks plain HTTP and can be reached from other machines, so passwords can be read on the way: give it a certificate with --tls-cert and --tls-key, or put a TLS proxy in front of it", "door", ap)
	}
	return nil
}

// The redirect's words: no listener at all, and the default beside a door on 443.
const (
	redirectOff     = "off"
	defaultRedirect = ":80"
)

// openRedirect sends those who come over plain HTTP to the door.
func (a *Agent) openRedirect() error {
	addr := a.cfg.RedirectListen
	if addr == redirectOff || addr == "" && a.doorPort() != "443" {
		return nil
	}
	given := addr != ""
	if !given {
		addr = defaultRedirect
	}
	ln, err := listen("redirect-listen", addr)
	if err != nil {
		if given {
			return err
		}
		a.log.Warn("nobody is sent on from plain HTTP: who types the address without https:// may see nothing", "err", err)
		return nil
	}
	a.plain = ln
	srv := &http.Server{Handler: http.HandlerFunc(a.sendOn), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	a.stack.run("redirect", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer stop()
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the redirect: %w", err)
		}
		return nil
	})
	return nil
}

// sendOn names the same place at the door. The host is one that the certificate
// is for, whatever the request says.
func (a *Agent) sendOn(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !a.certificate.Covers(host) {
		host = a.certificate.Host()
	}
	if host == "" {
		http.Error(w, "This workshop is at https://, under the name on your card.", http.StatusMisdirectedRequest)
		return
	}
	where := r.RequestURI
	if !strings.HasPrefix(where, "/") {
		where = "/"
	}
	w.Header().Set("Location", "https://"+withPort(host, a.doorPort())+where)
	w.WriteHeader(http.StatusPermanentRedirect)
}

func (a *Agent) doorPort() string {
	_, port, err := net.SplitHostPort(a.door.Addr().String())
	if err != nil {
		return ""
	}
	return port
}

func withPort(host, port string) string {
	if port == "443" || port == "" {
		return host
	}
	return net.JoinHostPort(host, port)
}

// doorURL is how this node's door is reached, without a slash at the end; ""
// without one. A door without a certificate that has a name stands behind a
// proxy that has one.
func (a *Agent) doorURL() string {
	switch {
	case a.door == nil:
		return ""
	case a.certificate != nil:
		if host := a.certificate.Host(); host != "" {
			return "https://" + withPort(host, a.doorPort())
		}
		return "https://" + reachable(a.door.Addr())
	case a.cfg.Domain != "" && !a.cfg.Dev:
		return "https://" + a.cfg.Domain
	}
	return "http://" + reachable(a.door.Addr())
}

// anyDoor is how a door of the workshop is reached: this node's, or one of which
// another node has told.
func (a *Agent) anyDoor() (string, error) {
	if url := a.doorURL(); url != "" {
		return url, nil
	}
	if a.cfg.Domain != "" {
		return "https://" + a.cfg.Domain, nil
	}
	for _, h := range a.swarm.reports.list() {
		if h.Door != "" && time.Since(h.at) < fresh {
			return h.Door, nil
		}
	}
	return "", cluster.Errorf(cluster.Unavailable, "no node with the role gateway answers, so nobody knows where the link should lead: start one, or give its name with --domain")
}

// renewWithin is how long before its end a certificate should have been renewed.
const renewWithin = 14 * 24 * time.Hour

// checkCertificate asks whether browsers take the certificate; checkRenewal
// whether somebody has to do something about it soon.
func checkCertificate(f *certificate.File) check {
	return check{
		name: "certificate", grave: true, every: 5 * time.Second, fresh: 30 * time.Second, cure: "put the right files where --tls-cert and --tls-key point: they are read again by themselves",
		do: func(context.Context) (string, error) {
			if err := f.Valid(); err != nil {
				return "", err
			}
			return "until " + f.Leaf().NotAfter.UTC().Format(time.DateOnly), nil
		},
	}
}

func checkRenewal(f *certificate.File) check {
	return check{
		name: "renewal", every: 5 * time.Second, fresh: 30 * time.Second, cure: "renew the certificate, and replace both files: they are read again by themselves",
		do: func(context.Context) (string, error) { return "", f.Fresh(renewWithin) },
	}
}

// doorMetrics registers what is counted at the door.
func (a *Agent) doorMetrics(reg prometheus.Registerer) error {
	var all []prometheus.Collector
	if a.certificate != nil {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "comfyume_gateway_tls_not_after_seconds", Help: "When the door's certificate ends, in seconds since 1970."},
			func() float64 { return float64(a.certificate.Leaf().NotAfter.Unix()) }))
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "comfyume_gateway_tls_valid", Help: "1 when browsers take the door's certificate: its dates and its name are right."},
			func() float64 { return number(a.certificate.Valid() == nil) }))
	}
	if a.door != nil {
		for name, of := range map[string]struct {
			help  string
			count func(signin.Counts) uint64
		}{
			"hashed":  {"Passwords that were hashed at sign-in.", func(c signin.Counts) uint64 { return c.Hashed }},
			"refused": {"Passwords that were wrong.", func(c signin.Counts) uint64 { return c.Refused }},
			"limited": {"Guesses that were turned away without being looked at.", func(c signin.Counts) uint64 { return c.Limited }},
			"late":    {"Sign-ins that waited too long for their turn to be looked at.", func(c signin.Counts) uint64 { return c.Late }},
		} {
			all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "comfyume_signin_" + name + "_total", Help: of.help},
				func() float64 { return float64(of.count(a.sign.Counts())) }))
		}
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}
