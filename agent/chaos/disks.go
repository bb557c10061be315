package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// smallDisk is c's own, in bytes. The log stops below 64 MB and goes on above
// 144 MB.
const smallDisk = 256 << 20

// killAll ends every process at once.
func (f *faults) killAll(ctx context.Context, rnd *rand.Rand) error {
	f.w.Say("kill all")
	for _, n := range f.w.Nodes() {
		go n.Kill()
	}
	for _, n := range f.w.Nodes() {
		n.Kill()
	}
	wait(ctx, between(rnd, 0, 2*time.Second))
	f.w.Say("start all")
	if err := f.w.Start(f.w.Nodes()...); err != nil {
		return err
	}
	var all error
	for _, n := range f.w.Nodes() {
		all = errors.Join(all, f.opened(ctx, n))
	}
	return all
}

// wipe kills a node that holds the table and empties its folder, but only if
// the others need nothing that it alone has.
func (f *faults) wipe(ctx context.Context, rnd *rand.Rand) error {
	all := f.w.Those("queue")
	n := all[rnd.IntN(len(all))]
	if !n.Running() {
		return errSkipped
	}
	f.w.Say("kill %s to wipe it", n.Name)
	n.Kill()
	if err := f.complete(ctx, n); err != nil {
		f.w.Say("%s is not wiped: %v", n.Name, err)
		return errors.Join(n.Launch(), errSkipped)
	}
	f.w.Say("wipe %s", n.Name)
	n.Full(true) // it may not vote until it has been given one again
	defer n.Full(false)
	if err := errors.Join(n.Wipe(), n.Launch(), f.opened(ctx, n)); err != nil {
		return err
	}
	// Until the three vote again, nothing else happens to them.
	err := f.w.Formed(ctx, 3, 90*time.Second)
	if err == nil {
		err = f.voting(ctx, n)
	}
	f.w.Say("%s votes again (%v)", n.Name, err)
	return err
}

// voting waits until a node itself says that it votes, with all of the log.
func (f *faults) voting(ctx context.Context, n *world.Node) error {
	return world.Until(ctx, 60*time.Second, n.Name+" votes", func(ctx context.Context) error {
		v, err := n.Status(ctx)
		switch {
		case err != nil:
			return err
		case v.Head.ReadOnly != "":
			return errors.New(v.Head.ReadOnly)
		}
		for _, x := range v.Nodes {
			if x.Name == n.Name && (x.Part == "voter" || x.Part == "leader") {
				return nil
			}
		}
		return errors.New("it does not")
	})
}

// complete reports whether the other gateways miss nothing, for long enough to
// believe it.
func (f *faults) complete(ctx context.Context, without *world.Node) error {
	good := 0
	return world.Until(ctx, 15*time.Second, "nothing is missing at the others", func(ctx context.Context) error {
		wait(ctx, 250*time.Millisecond)
		for _, n := range f.w.Nodes() {
			if !n.Core() || n == without {
				continue
			}
			v, err := n.Status(ctx)
			switch {
			case err != nil:
				good = 0
				return err
			case v.Head.Leader == "" || v.Head.Leader == without.Name:
				good = 0
				return fmt.Errorf("%s knows no leader", n.Name)
			}
			for _, a := range v.Attention {
				if strings.Contains(a.What, " lacks ") && !strings.HasPrefix(a.What, without.Name+" ") {
					good = 0
					return errors.New(a.What)
				}
			}
		}
		if good++; good < 8 {
			return errors.New("for some moments only")
		}
		return nil
	})
}

// diskFull takes the space of c's disk and gives it back.
func (f *faults) diskFull(ctx context.Context, rnd *rand.Rand) error {
	n := f.w.Node("c")
	if n == nil || !n.Running() {
		return errSkipped
	}
	if l := f.w.Leader(ctx); l != nil && l != n && rnd.IntN(2) == 0 {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = l.Transfer(one, n.Name) // a leader's disk is the better one to fill
		cancel()
	}
	leave := int64(0)
	if rnd.IntN(2) == 0 {
		leave = 40 << 20
	}
	f.w.Say("fill the disk of %s but for %d MB", n.Name, leave>>20)
	n.Full(true)
	defer n.Full(false)
	err := n.Fill(leave)
	full := world.Until(ctx, 15*time.Second, n.Name+" says that its disk is full", func(ctx context.Context) error {
		v, err := n.Status(ctx)
		if err == nil && !strings.Contains(v.Head.ReadOnly, "full") {
			err = fmt.Errorf("it says %q", v.Head.ReadOnly)
		}
		return err
	})
	wait(ctx, between(rnd, 2*time.Second, 6*time.Second))
	f.w.Say("free the disk of %s (%v)", n.Name, full)
	err = errors.Join(err, full, n.Unfill())
	return errors.Join(err, world.Until(ctx, 30*time.Second, n.Name+" goes on", func(ctx context.Context) error {
		v, err := n.Status(ctx)
		if err == nil && v.Head.ReadOnly != "" {
			err = errors.New(v.Head.ReadOnly)
		}
		return err
	}))
}

// connected is how a worker's log names the ComfyUI that it drives.
var connected = regexp.MustCompile(`"msg":"connected to ComfyUI".*?"url":"(http://[0-9.:]+)"`)

// comfyUI is where the ComfyUI of a node listens.
func comfyUI(n *world.Node) (string, error) {
	raw, err := os.ReadFile(n.LogPath())
	if err != nil {
		return "", err
	}
	all := connected.FindAllSubmatch(raw, -1)
	if len(all) == 0 {
		return "", fmt.Errorf("%s has not said where its ComfyUI is", n.Name)
	}
	return string(all[len(all)-1][1]), nil
}

// exit ends the ComfyUI of a node, as a crash would.
func (f *faults) exit(ctx context.Context, rnd *rand.Rand) error {
	n := f.gpu(ctx, rnd)
	if !n.Running() {
		return errSkipped
	}
	url, err := comfyUI(n)
	if err != nil {
		return err
	}
	f.w.Say("end the ComfyUI of %s", n.Name)
	one, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(one, http.MethodPost, url+"/prompt", oracle.ExitPrompt())
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return errSkipped // it was just away
	}
	return resp.Body.Close()
}
