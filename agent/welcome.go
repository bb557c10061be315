package agent

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// Welcome is what a person who just started the agent needs to know.
type Welcome struct {
	Node, Roles      string
	Participants     string // address of the first participant's ComfyUI
	Instructor       string // address of the dashboard at the door
	Site             string // address of the dashboard on this machine; with Dev, the token in it
	TokenFile        string
	Credentials      string // file of made passwords, "" when all were given
	ComfyUI          string
	SignIns          []SignIn // of the first participant; only with Dev, only if made
	InstructorSignIn []SignIn // likewise
}

// SignIn is a name and a password that was made for a workshop on this machine.
type SignIn struct {
	Name     cluster.User
	Password string
}

// Welcome says where to go.
func (a *Agent) Welcome() Welcome {
	door := "http://" + reachable(a.door.Addr())
	w := Welcome{
		Node: a.self.Name, Roles: joinRoles(a.cfg.Roles), Instructor: door + "/admin/", Site: "http://" + reachable(a.site.ln.Addr()) + "/",
		TokenFile: filepath.Join(a.cfg.StateDir, TokenFile), ComfyUI: strings.Join(a.cfg.ComfyUIURLs, ", "),
	}
	if w.ComfyUI == "" {
		w.ComfyUI = "sketch: a small ComfyUI of our own on the CPU, a few core image nodes, no models"
	}
	if !a.cfg.Has(cluster.GPU) {
		w.ComfyUI = "none on this node: jobs wait until a GPU joins"
	}
	first, made := a.accounts.first()
	w.Participants = fmt.Sprintf("%s/%s/", door, first)
	if len(a.accounts.made) > 0 {
		w.Credentials = filepath.Join(a.cfg.StateDir, credentialsFile)
	}
	if !a.cfg.Dev {
		return w
	}
	if made != "" {
		w.SignIns = []SignIn{{first, string(made)}}
	}
	w.Site += "#token=" + a.site.token
	admin := cluster.User(a.cfg.AdminUsername)
	if a.cfg.AdminPassword == "" {
		w.InstructorSignIn = []SignIn{{admin, string(a.accounts.made[admin])}}
	}
	return w
}

// first is the participant to show, and their password if it was made here.
func (a *accounts) first() (cluster.User, Secret) {
	given, err := a.given()
	if err == nil && len(given) > 0 {
		return sortedUsers(given)[0], ""
	}
	for _, u := range sortedUsers(a.made) {
		if string(u) != a.cfg.AdminUsername {
			return u, a.made[u]
		}
	}
	return "user001", ""
}

// reachable is an address to type: a listener on all addresses is reached at
// this machine's own.
func reachable(addr net.Addr) string {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ap.Addr().IsUnspecified() {
		return fmt.Sprintf("localhost:%d", ap.Port())
	}
	return ap.String()
}
