//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	redisWaiting  = "waiting"
	redisReserved = "reserved"
)

// redisQueue is two lists on one server: one copy, fsync before each answer.
// A client uses one connection at a time: the protocol cannot share one.
type redisQueue struct {
	kid *child
	rdb *redis.Client
}

func startRedis(ctx context.Context, s Setup) (Queue, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("find redis-server (Debian: apt-get install redis-server): %w", err)
	}
	p, err := ports(1)
	if err != nil {
		return nil, err
	}
	dir, err := s.Lab.folder("redis")
	if err != nil {
		return nil, err
	}
	kid, err := s.Lab.start("redis", dir, bin, "--bind", "127.0.0.1", "--port", fmt.Sprint(p[0]), "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--auto-aof-rewrite-percentage", "0", "--daemonize", "no")
	if err != nil {
		return nil, err
	}
	redis.SetLogger(silence{}) // it reports every refused connection of a start
	q := &redisQueue{kid: kid, rdb: redis.NewClient(&redis.Options{
		// After PoolSize refused connections the library tries only once a second;
		// that would be counted as the server's time to come back.
		Addr: loopback(p[0]), PoolSize: s.Clients + 2000, MaxRetries: -1, DialTimeout: time.Second, ContextTimeoutEnabled: true,
		DialerRetries: 1, ReadTimeout: 30 * time.Second, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})}
	if err := q.ready(ctx); err != nil {
		err = explain(err, q.Servers())
		q.Close()
		return nil, err
	}
	return q, nil
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func (q *redisQueue) ready(ctx context.Context) error {
	return until(ctx, "wait for redis", func(ctx context.Context) error { return q.rdb.Ping(ctx).Err() })
}

func (q *redisQueue) Enqueue(ctx context.Context, _ int, _ ID, body []byte) error {
	return q.rdb.LPush(ctx, redisWaiting, body).Err()
}

func (q *redisQueue) complete(ctx context.Context, body string) error {
	n, err := q.rdb.LRem(ctx, redisReserved, 1, body).Result()
	if err == nil && n != 1 {
		err = errors.New("the job to complete was not reserved")
	}
	return err
}

func (q *redisQueue) ReserveComplete(ctx context.Context, _ int) (bool, error) {
	body, err := q.rdb.LMove(ctx, redisWaiting, redisReserved, "RIGHT", "LEFT").Result()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, q.complete(ctx, body)
}

func (q *redisQueue) Take(ctx context.Context, _ int) (ID, func(context.Context) error, error) {
	body, err := q.rdb.BLMove(ctx, redisWaiting, redisReserved, "RIGHT", "LEFT", 20*time.Second).Result()
	if err != nil {
		return "", nil, err
	}
	id, err := idOf([]byte(body))
	return id, func(ctx context.Context) error { return q.complete(ctx, body) }, err
}

// KillLeader also starts the server again: there is no other copy to turn to.
func (q *redisQueue) KillLeader(context.Context) error {
	q.kid.kill()
	time.Sleep(50 * time.Millisecond) // the restart delay of benchmarks.md
	return q.kid.run()
}

func (q *redisQueue) Held(ctx context.Context) ([]ID, error) {
	if err := q.ready(ctx); err != nil {
		return nil, err
	}
	var held []ID
	for _, list := range []string{redisWaiting, redisReserved} {
		for from := int64(0); ; from += 5000 {
			bodies, err := q.rdb.LRange(ctx, list, from, from+4999).Result()
			if err != nil {
				return held, err
			}
			for _, b := range bodies {
				id, err := idOf([]byte(b))
				if err != nil {
					return held, err
				}
				held = append(held, id)
			}
			if len(bodies) < 5000 {
				break
			}
		}
	}
	return held, nil
}

func (q *redisQueue) Servers() []*child { return []*child{q.kid} }

func (q *redisQueue) Close() {
	_ = q.rdb.Close()
	stop(q.Servers())
}
