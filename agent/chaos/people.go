package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// The people of every world. probe only looks whether writes are accepted.
const (
	people = 6
	probe  = "probe"
)

func participants() map[string]string {
	out := map[string]string{}
	for i := range people {
		name := fmt.Sprintf("user%03d", i+1)
		out[name] = "secret-" + name
	}
	return out
}

func everybody() map[string]string {
	out := participants()
	out[probe] = "secret-" + probe
	return out
}

func user(i int) (name, pass string) {
	name = fmt.Sprintf("user%03d", i%people+1)
	return name, "secret-" + name
}

// doors of nodes.
func doors(nodes ...*world.Node) (out []oracle.Door) {
	for _, n := range nodes {
		if n.Has("gateway") {
			out = append(out, oracle.Door{Name: n.Name, URL: n.Door()})
		}
	}
	return out
}

// six is the usual world: three core nodes, two of them gateways, and three
// that run jobs.
func six(w *world.World, disk int64) error {
	for _, o := range []world.Options{
		{Name: "a", Roles: "gateway,queue"},
		{Name: "b", Roles: "gateway,queue"},
		{Name: "c", Roles: "queue", Disk: disk},
		{Name: "g1", Roles: "gpu"},
		{Name: "g2", Roles: "gpu"},
		{Name: "g3", Roles: "gpu"},
	} {
		if _, err := w.Add(o); err != nil {
			return err
		}
	}
	return nil
}

// up starts nodes and waits until the votes are given, the workers are idle and
// the doors are ready.
func up(ctx context.Context, w *world.World, votes int) error {
	if err := w.Start(w.Nodes()...); err != nil {
		return err
	}
	return ready(ctx, w, votes, 90*time.Second)
}

func ready(ctx context.Context, w *world.World, votes int, within time.Duration) error {
	if err := w.Formed(ctx, votes, within); err != nil {
		return err
	}
	gpus := 0
	for _, n := range w.Those("gpu") {
		if n.Launched() {
			gpus++
		}
	}
	return world.Until(ctx, within, "every door knows what can be run", func(ctx context.Context) error {
		for _, n := range w.Those("gateway") {
			if !n.Launched() {
				continue
			}
			v, err := n.Status(ctx)
			if err != nil {
				return err
			}
			idle := 0
			for _, x := range v.Workers {
				if x.State != "not here" && x.State != "silent" && x.State != "waiting for ComfyUI" && x.State != "probing" {
					idle++
				}
			}
			if idle < gpus {
				return fmt.Errorf("%s sees %d of %d workers", n.Name, idle, gpus)
			}
			s := oracle.NewSession(oracle.NewBook(), "user001", "secret-user001", doors(n)...)
			a := s.Do(ctx, "GET", "/object_info/SaveImage", nil)
			s.Close()
			if a.Code == 0 || gpus > 0 && (a.Code != 200 || len(a.Body) < 10) {
				return errors.New(a.String())
			}
		}
		return nil
	})
}

// knock writes a small document through each gateway all the time, and tells
// the watch of each that was accepted.
func knock(ctx context.Context, x *world.Watch, nodes []*world.Node) {
	for _, n := range nodes {
		go knockAt(ctx, x, n)
	}
}

// knockEvery is how often; knocking is how many may wait for an answer.
const (
	knockEvery = 100 * time.Millisecond
	knocking   = 30
)

func knockAt(ctx context.Context, x *world.Watch, n *world.Node) {
	tick := time.NewTicker(knockEvery)
	defer tick.Stop()
	busy := make(chan struct{}, knocking)
	book := oracle.NewBook() // these do not count
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case busy <- struct{}{}:
		default:
			continue
		}
		go func() {
			defer func() { <-busy }()
			s := oracle.NewSession(book, probe, "secret-"+probe, doors(n)...)
			defer s.Close()
			if a := s.Do(ctx, "POST", fmt.Sprintf("/userdata/%s-%d.json?overwrite=true", n.Name, i%8), "{}"); a.Code == 200 {
				x.Acknowledged(n.Name)
			}
		}()
	}
}

// broken looks for what no outside can see: a process that ended by itself, a
// replica that was not what the leader was, a panic.
func broken(w *world.World, r *result) {
	for _, why := range w.Ended() {
		r.Violations++
		r.Why = append(r.Why, why)
	}
	for _, path := range w.Logs() {
		for _, line := range suspicious(path) {
			r.Violations++
			r.Why = append(r.Why, path[strings.LastIndexByte(path, '/')+1:]+": "+line)
		}
	}
}

func suspicious(path string) (out []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() && len(out) < 5 {
		line := lines.Text()
		for _, word := range []string{"panic: ", "panicked", "stopped applying the log", "fatal error: ", "DATA RACE"} {
			if strings.Contains(line, word) {
				out = append(out, line[:min(len(line), 400)])
				break
			}
		}
	}
	return out
}
