package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type queueClass struct {
	Mode string `arg:"" optional:"" help:"free, demo (the instructor first), hands-off (only the instructor), sprint N (N jobs each) or wind-down HH:MM."`
	What string `arg:"" optional:"" help:"Of sprint: how many jobs each. Of wind-down: the time at which all is over."`
}

// Run prints or chooses what the class does.
func (q *queueClass) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	if q.Mode != "" {
		act := agent.Action{Verb: agent.SetClass, Mode: q.Mode}
		switch {
		case q.Mode == "wind-down":
			if act.Until, err = clockTime(q.What); err != nil {
				return err
			}
		case q.What != "":
			if act.N, err = strconv.ParseInt(q.What, 10, 64); err != nil {
				return &exit{exitUsage, fmt.Sprintf("%q is no number of jobs", q.What)}
			}
		}
		if err := c.act(ctx, act); err != nil {
			return err
		}
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	class := v.Head.Class
	if class == "" {
		class = "free"
	}
	return told(t, g, map[string]string{"class": class}, "%s", class)
}

// clockTime reads HH:MM as the next such time of this machine's clock.
func clockTime(s string) (int64, error) {
	at, err := time.ParseInLocation("15:04", s, time.Local)
	if err != nil {
		return 0, &exit{exitUsage, fmt.Sprintf("%q is no time such as 17:30", s)}
	}
	now := time.Now()
	at = time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), 0, 0, time.Local)
	if !at.After(now) {
		at = at.AddDate(0, 0, 1)
	}
	return at.UnixMilli(), nil
}

type queueQuota struct {
	User    string `arg:"" optional:"" help:"Whose; without a name everybody who has none of their own."`
	Queued  int64  `placeholder:"N" help:"Jobs that may wait or run; more are refused. 0: no bound."`
	Running int64  `placeholder:"N" help:"Jobs at work at a time. 0: no bound."`
	Minutes int64  `name:"gpu-minutes" placeholder:"N" help:"GPU time in 24 hours. 0: no bound."`
	Disk    string `placeholder:"SIZE" help:"What their files may take, e.g. 20GB. 0: no bound of their own. Alone it leaves the other bounds as they are; without it it stays itself as it is."`
}

// Run bounds somebody.
func (q *queueQuota) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	who := q.User
	if who == "" {
		who = "everybody else"
	}
	if q.Disk != "" {
		bytes, err := humanize.ParseBytes(q.Disk)
		if err != nil || bytes > math.MaxInt64 {
			return &exit{exitUsage, fmt.Sprintf("%q is no size such as 20GB", q.Disk)}
		}
		if err := c.act(ctx, agent.Action{Verb: agent.SetDisk, User: agent.User(q.User), Bytes: int64(bytes)}); err != nil { //nolint:gosec // bounded above
			return err
		}
		if q.Queued+q.Running+q.Minutes == 0 {
			return told(t, g, q, "%s: files may take %s (0 = no bound)", who, humanize.Bytes(bytes))
		}
	}
	if err := c.act(ctx, agent.Action{Verb: agent.SetQuota, User: agent.User(q.User), Queued: q.Queued, N: q.Running, Minutes: q.Minutes}); err != nil {
		return err
	}
	return told(t, g, q, "%s: %d queued, %d at work, %d GPU minutes in 24 hours (0 = no bound)", who, q.Queued, q.Running, q.Minutes)
}

type queueBoost struct {
	User string        `arg:"" help:"Whose jobs go first."`
	For  time.Duration `default:"10m" placeholder:"TIME" help:"For how long; 0 ends it."`
}

// Run lets a user's jobs go first for a while.
func (q *queueBoost) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	act := agent.Action{Verb: agent.BoostPerson, User: agent.User(q.User)}
	if q.For > 0 {
		act.Until = time.Now().Add(q.For).UnixMilli()
	}
	if err := c.act(ctx, act); err != nil {
		return err
	}
	if q.For <= 0 {
		return told(t, g, q, "%s waits like everybody again", q.User)
	}
	return told(t, g, q, "%s goes first for %s", q.User, q.For)
}
