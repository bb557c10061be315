package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

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

// Welcome says where to go. With Dev it waits, a while, until the accounts of
// the workshop on this machine are there.
func (a *Agent) Welcome(ctx context.Context) Welcome {
	w := Welcome{
		Node: a.self.Name, Roles: joinRoles(a.cfg.Roles), Site: "http://" + reachable(a.site.ln.Addr()) + "/",
		TokenFile: filepath.Join(a.cfg.StateDir, TokenFile), ComfyUI: strings.Join(a.cfg.ComfyUIURLs, ", "),
	}
	if w.ComfyUI == "" || w.ComfyUI == sketchURL {
		w.ComfyUI = "sketch: a small ComfyUI of our own on the CPU, a few core image nodes, no models"
	}
	if !a.cfg.Has(cluster.GPU) {
		w.ComfyUI = "none on this node: jobs wait until a GPU joins"
	}
	if a.cfg.Dev {
		w.Site += "#token=" + a.site.token
	}
	if a.door != nil {
		a.welcomeAtDoor(ctx, &w)
	}
	return w
}

// welcomeWithin is how long Welcome waits for the accounts of --dev.
const welcomeWithin = 15 * time.Second

func (a *Agent) welcomeAtDoor(ctx context.Context, w *Welcome) {
	door := a.doorURL()
	w.Instructor = door + "/admin/"
	limit := time.Now().Add(welcomeWithin)
	for a.cfg.Dev && a.accounts.prepared() != nil && ctx.Err() == nil && time.Now().Before(limit) {
		time.Sleep(10 * time.Millisecond)
	}
	first, made := a.accounts.first()
	w.Participants = fmt.Sprintf("%s/%s/", door, first)
	passwords := a.accounts.passwords()
	if len(passwords) > 0 {
		w.Credentials = filepath.Join(a.cfg.StateDir, credentialsFile)
	}
	if !a.cfg.Dev {
		return
	}
	if made != "" {
		w.SignIns = []SignIn{{first, string(made)}}
	}
	admin := cluster.User(a.cfg.AdminUsername)
	if a.cfg.AdminPassword == "" {
		w.InstructorSignIn = []SignIn{{admin, string(passwords[admin])}}
	}
}

// first is the participant to show, and their password if it was made here.
func (a *accounts) first() (cluster.User, Secret) {
	given, err := a.given()
	if err == nil && len(given) > 0 {
		return sortedUsers(given)[0], ""
	}
	made := a.passwords()
	for _, u := range sortedUsers(made) {
		if string(u) != a.cfg.AdminUsername {
			return u, made[u]
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
