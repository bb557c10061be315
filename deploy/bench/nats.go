//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsArgs of one server process.
type natsArgs struct {
	Name   string
	Dir    string
	Client int   // port
	Route  int   // port
	Routes []int // ports of all servers
}

// serveNATS runs one JetStream server until it is killed.
func serveNATS(a natsArgs) error {
	opts := &server.Options{
		ServerName: a.Name, Host: "127.0.0.1", Port: a.Client,
		JetStream: true, StoreDir: a.Dir, SyncAlways: true,
		Cluster: server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: a.Route},
		NoSigs:  true,
	}
	for _, p := range a.Routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: loopback(p)})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	return nil
}

const (
	natsStream   = "JOBS"
	natsConsumer = "workers"
	natsSubject  = "jobs.new"
)

// natsQueue is a work-queue stream with three copies and one durable pull
// consumer that all clients share.
type natsQueue struct {
	kids    []*child // kids[i] is server "n<i>"
	conns   []*nats.Conn
	js      []jetstream.JetStream       // one for each connection
	workers []jetstream.MessagesContext // one for each client
	stream  jetstream.Stream
	kill    bool
}

func startNATS(ctx context.Context, s Setup) (Queue, error) {
	q := &natsQueue{kill: s.Kill}
	if err := q.start(ctx, s); err != nil {
		err = explain(err, q.kids)
		q.Close()
		return nil, err
	}
	return q, nil
}

func (q *natsQueue) start(ctx context.Context, s Setup) error {
	const n = 3
	p, err := ports(2 * n)
	if err != nil {
		return err
	}
	var urls []string
	for i := range n {
		dir, err := s.Lab.folder("nats")
		if err != nil {
			return err
		}
		c, err := s.Lab.startSelf("serve-nats", dir, natsArgs{Name: fmt.Sprintf("n%d", i), Dir: dir, Client: p[i], Route: p[n+i], Routes: p[n:]})
		if err != nil {
			return err
		}
		q.kids = append(q.kids, c)
		urls = append(urls, "nats://"+loopback(p[i]))
	}
	leader, err := q.create(ctx, urls)
	if err != nil {
		return err
	}
	if !s.Kill {
		urls = urls[leader : leader+1] // best case: clients talk to the leader itself
	}
	for range s.Conns {
		nc, err := natsConnect(urls)
		if err != nil {
			return err
		}
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		q.conns, q.js = append(q.conns, nc), append(q.js, js)
	}
	q.workers = make([]jetstream.MessagesContext, s.Clients)
	q.stream, err = q.js[0].Stream(ctx, natsStream)
	return err
}

func natsConnect(urls []string) (*nats.Conn, error) {
	return nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.DontRandomize(), nats.Timeout(time.Second))
}

// create makes the stream and its consumer, brings both leaders onto one
// server and returns which.
func (q *natsQueue) create(ctx context.Context, urls []string) (leader int, err error) {
	var nc *nats.Conn
	if err := until(ctx, "connect to NATS", func(context.Context) (err error) { nc, err = natsConnect(urls); return err }); err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	err = until(ctx, "create the stream", func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: natsStream, Subjects: []string{natsSubject}, Retention: jetstream.WorkQueuePolicy,
			Storage: jetstream.FileStorage, Replicas: 3,
		})
		return err
	})
	if err != nil {
		return 0, err
	}
	err = until(ctx, "create the consumer", func(ctx context.Context) error {
		_, err := js.CreateConsumer(ctx, natsStream, jetstream.ConsumerConfig{
			Durable: natsConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxAckPending: -1,
		})
		return err
	})
	if err != nil {
		return 0, err
	}
	err = until(ctx, "bring both leaders together", func(ctx context.Context) error {
		st, err := js.Stream(ctx, natsStream)
		if err != nil {
			return err
		}
		co, err := st.Consumer(ctx, natsConsumer)
		if err != nil {
			return err
		}
		si, ci := st.CachedInfo().Cluster, co.CachedInfo().Cluster
		if si == nil || ci == nil || len(si.Replicas) != 2 || len(ci.Replicas) != 2 || si.Leader == "" {
			return errors.New("three copies are not there yet")
		}
		if si.Leader != ci.Leader {
			req := fmt.Sprintf(`{"placement":{"preferred":%q}}`, si.Leader)
			_, err := nc.RequestWithContext(ctx, "$JS.API.CONSUMER.LEADER.STEPDOWN."+natsStream+"."+natsConsumer, []byte(req))
			return errors.Join(fmt.Errorf("stream led by %s, consumer by %s", si.Leader, ci.Leader), err)
		}
		_, err = fmt.Sscanf(si.Leader, "n%d", &leader)
		return err
	})
	return leader, err
}

func (q *natsQueue) jetStream(client int) jetstream.JetStream { return q.js[client%len(q.js)] }

func (q *natsQueue) Enqueue(ctx context.Context, client int, id ID, body []byte) error {
	m := &nats.Msg{Subject: natsSubject, Data: body}
	opts := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}
	if q.kill { // only here are jobs sent twice; elsewhere NATS is spared the work
		opts = append(opts, jetstream.WithMsgID(string(id)))
	}
	_, err := q.jetStream(client).PublishMsg(ctx, m, opts...)
	return err
}

// next is the client's next message. The client library asks for the next one
// as soon as it has handed one out.
func (q *natsQueue) next(ctx context.Context, client int) (jetstream.Msg, error) {
	if q.workers[client] == nil {
		co, err := q.jetStream(client).Consumer(ctx, natsStream, natsConsumer)
		if err != nil {
			return nil, err
		}
		if q.workers[client], err = co.Messages(jetstream.PullMaxMessages(1)); err != nil {
			return nil, err
		}
	}
	return q.workers[client].Next(jetstream.NextContext(ctx))
}

func (q *natsQueue) ReserveComplete(ctx context.Context, client int) (bool, error) {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := q.next(short, client)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, m.DoubleAck(ctx)
}

func (q *natsQueue) Take(ctx context.Context, client int) (ID, func(context.Context) error, error) {
	m, err := q.next(ctx, client)
	if err != nil {
		return "", nil, err
	}
	id, err := idOf(m.Data())
	return id, m.DoubleAck, err
}

func (q *natsQueue) KillLeader(ctx context.Context) error {
	info, err := q.stream.Info(ctx)
	if err != nil {
		return err
	}
	if info.Cluster == nil || info.Cluster.Leader == "" {
		return errors.New("the stream has no leader to kill")
	}
	var i int
	if _, err := fmt.Sscanf(info.Cluster.Leader, "n%d", &i); err != nil {
		return fmt.Errorf("read the leader's name %q: %w", info.Cluster.Leader, err)
	}
	q.kids[i].kill()
	return nil
}

// Held reads through the consumer without acknowledging: a work queue allows no
// other reader. No reader was there before it.
func (q *natsQueue) Held(ctx context.Context) ([]ID, error) {
	var co jetstream.Consumer
	var want uint64
	err := until(ctx, "find the consumer's leader", func(ctx context.Context) error {
		info, err := q.stream.Info(ctx)
		if err != nil {
			return err
		}
		want = info.State.Msgs
		co, err = q.js[0].Consumer(ctx, natsStream, natsConsumer)
		return err
	})
	if err != nil {
		return nil, err
	}
	var held []ID
	for uint64(len(held)) < want && ctx.Err() == nil {
		batch, err := co.Fetch(500, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return held, err
		}
		for m := range batch.Messages() {
			id, err := idOf(m.Data())
			if err != nil {
				return held, err
			}
			held = append(held, id)
		}
	}
	if ctx.Err() != nil {
		return held, fmt.Errorf("read back %d of %d messages: %w", len(held), want, context.Cause(ctx))
	}
	return held, nil
}

func (q *natsQueue) Servers() []*child { return q.kids }

func (q *natsQueue) Close() {
	for _, w := range q.workers {
		if w != nil {
			w.Stop()
		}
	}
	for _, nc := range q.conns {
		nc.Close()
	}
	stop(q.kids)
}

func natsRole(arg string) error {
	var a natsArgs
	if err := json.Unmarshal([]byte(arg), &a); err != nil {
		return err
	}
	return serveNATS(a)
}
