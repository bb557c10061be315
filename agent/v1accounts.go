package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// V1Begin asks POST /api/import/v1 for the predecessor's accounts, if any, and for
// what an import has to know.
type V1Begin struct {
	Htpasswd string    `json:"htpasswd,omitempty"` // the whole file
	Accounts []NewUser `json:"accounts,omitempty"` // of the .env; where both name somebody, the file counts
	DryRun   bool      `json:"dry_run,omitempty"`
}

// V1Account says what became of one of the predecessor's accounts.
type V1Account struct {
	Name  cluster.User   `json:"name"`
	State V1AccountState `json:"state"`
	Why   string         `json:"why,omitempty"`
}

// V1AccountState is what became of an account.
type V1AccountState string

// The states.
const (
	V1Made    V1AccountState = "made"
	V1Already V1AccountState = "already" // with the same password
	V1Stays   V1AccountState = "kept"    // with another password, which stays
	V1Left    V1AccountState = "left"    // by rule: the instructor's
	V1Refused V1AccountState = "refused" // it cannot be one here
)

// V1Ready answers a V1Begin.
type V1Ready struct {
	People   []cluster.User `json:"people"` // who has an account now, or would have
	Accounts []V1Account    `json:"accounts"`
	Room     int64          `json:"room"` // bytes that may be stored here before the disk counts as full
}

// maxV1Begin bounds a V1Begin, in bytes: an htpasswd file and a .env.
const maxV1Begin = 4 << 20

// v1Begin makes the predecessor's accounts and says who there is.
func (a *api) v1Begin(w http.ResponseWriter, r *http.Request) {
	im, err := a.v1(r)
	var in V1Begin
	if err == nil && json.NewDecoder(http.MaxBytesReader(w, r.Body, maxV1Begin)).Decode(&in) != nil {
		err = cluster.Errorf(cluster.Invalid, "the accounts cannot be read, or are over %d MB", maxV1Begin>>20)
	}
	out := V1Ready{Accounts: []V1Account{}}
	if err == nil {
		out.Accounts, err = a.v1Accounts(r.Context(), im, in)
	}
	if err == nil {
		out.Room, err = a.agent.swarm.blobs.Left()
	}
	if err != nil {
		answerError(w, err)
		return
	}
	im.core.machine.People(func(t *people.Table) {
		for _, p := range t.People() {
			out.People = append(out.People, p.Name)
		}
	})
	for _, acc := range out.Accounts {
		if acc.State == V1Made && !slices.Contains(out.People, acc.Name) {
			out.People = append(out.People, acc.Name)
		}
	}
	answer(w, http.StatusOK, out)
}

func (a *api) v1Accounts(ctx context.Context, im *v1Import, in V1Begin) ([]V1Account, error) {
	given := map[cluster.User]account{}
	rows, err := signin.ReadHtpasswd(strings.NewReader(in.Htpasswd))
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		given[r.Name] = account{hash: r.Hash}
	}
	for _, u := range in.Accounts {
		given[u.Name] = account{password: Secret(u.Password), hash: given[u.Name].hash}
	}
	out := []V1Account{}
	for _, u := range sortedUsers(given) {
		acc, err := a.v1Account(ctx, im, u, given[u], in.DryRun)
		if err != nil {
			return nil, err
		}
		out = append(out, acc)
	}
	return out, nil
}

// v1Account makes one account unless there is one. The file of hashes is what the
// old door asked, so it counts before the .env.
func (a *api) v1Account(ctx context.Context, im *v1Import, u cluster.User, acc account, dry bool) (V1Account, error) {
	out := V1Account{Name: u, State: V1Made}
	if err := checkName(u, a.instructor); err != nil {
		out.State, out.Why = V1Refused, cluster.MessageOf(err)
		if u == a.instructor {
			out.State, out.Why = V1Left, "it is the instructor's name, whose password is ADMIN_PASSWORD"
		}
		return out, nil
	}
	var have people.Person
	known := false
	im.core.machine.People(func(t *people.Table) { have, known = t.Person(u) })
	if known {
		out.State = V1Stays
		if acc.hash == have.Hash || acc.password != "" && signin.Verify(have.Hash, string(acc.password)) {
			out.State = V1Already
		}
		return out, nil
	}
	if acc.hash != "" && acc.password != "" && !signin.Verify(acc.hash, string(acc.password)) {
		out.Why = "the .env has another password than the htpasswd file, which counts"
	}
	if dry {
		return out, nil
	}
	if acc.hash == "" {
		var err error
		if acc.hash, err = signin.HashPassword(string(acc.password)); err != nil {
			out.State, out.Why = V1Refused, cluster.MessageOf(err)
			return out, nil
		}
	}
	_, err := im.commit(ctx, &people.Put{Name: u, Hash: acc.hash, IfAbsent: true})
	if cluster.CodeOf(err) == cluster.Conflict { // somebody made it meanwhile
		out.State, err = V1Stays, nil
	}
	return out, err
}
