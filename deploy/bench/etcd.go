//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// etcdArgs of one member process.
type etcdArgs struct {
	Name    string
	Dir     string
	Client  int // port
	Peer    int // port
	Cluster string
}

// serveEtcd runs one member until it is killed.
func serveEtcd(a etcdArgs) error {
	c := embed.NewConfig()
	c.Name, c.Dir = a.Name, a.Dir
	client, peer := []url.URL{{Scheme: "http", Host: loopback(a.Client)}}, []url.URL{{Scheme: "http", Host: loopback(a.Peer)}}
	c.ListenClientUrls, c.AdvertiseClientUrls = client, client
	c.ListenPeerUrls, c.AdvertisePeerUrls = peer, peer
	c.InitialCluster, c.ClusterState = a.Cluster, embed.ClusterStateFlagNew
	c.QuotaBackendBytes = 8 << 30
	c.LogLevel = "error"
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	return <-e.Err()
}

func etcdRole(arg string) error {
	var a etcdArgs
	if err := json.Unmarshal([]byte(arg), &a); err != nil {
		return err
	}
	return serveEtcd(a)
}

// etcdQueue keeps a job under job/ID and its reservation under lease/ID. The
// bench deals the keys out from its own memory: nobody competes and nobody has
// to look for work. That is the best case; a real queue on etcd does worse.
type etcdQueue struct {
	kids    []*child
	urls    []string // client URL of each kid
	conns   []*clientv3.Client
	watches []clientv3.WatchChan // of each client, made when first used
	pending [][]*clientv3.Event  // of each client

	mu    sync.Mutex
	deck  []ID        // enqueued, oldest first
	taken map[ID]bool // those of the deck that came through a watch
}

func startEtcd(ctx context.Context, s Setup) (Queue, error) {
	q := &etcdQueue{taken: map[ID]bool{}, watches: make([]clientv3.WatchChan, s.Clients), pending: make([][]*clientv3.Event, s.Clients)}
	if err := q.start(ctx, s); err != nil {
		err = explain(err, q.kids)
		q.Close()
		return nil, err
	}
	return q, nil
}

func (q *etcdQueue) start(ctx context.Context, s Setup) error {
	const n = 3
	p, err := ports(2 * n)
	if err != nil {
		return err
	}
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf("e%d=http://%s", i, loopback(p[n+i])))
	}
	for i := range n {
		dir, err := s.Lab.folder("etcd")
		if err != nil {
			return err
		}
		c, err := s.Lab.startSelf("serve-etcd", dir, etcdArgs{
			Name: fmt.Sprintf("e%d", i), Dir: dir, Client: p[i], Peer: p[n+i], Cluster: strings.Join(members, ","),
		})
		if err != nil {
			return err
		}
		q.kids, q.urls = append(q.kids, c), append(q.urls, "http://"+loopback(p[i]))
	}
	for range s.Conns {
		c, err := clientv3.New(clientv3.Config{Endpoints: q.urls, DialTimeout: time.Second, Logger: zap.NewNop()})
		if err != nil {
			return err
		}
		q.conns = append(q.conns, c)
	}
	var leader int
	if err := until(ctx, "wait for etcd's leader", func(ctx context.Context) (err error) {
		if leader, err = q.leader(ctx); err != nil {
			return err
		}
		_, err = q.conns[0].Put(ctx, "ready", "")
		return err
	}); err != nil {
		return err
	}
	if !s.Kill {
		for _, c := range q.conns {
			c.SetEndpoints(q.urls[leader]) // best case: clients talk to the leader itself
		}
	}
	return nil
}

func (q *etcdQueue) leader(ctx context.Context) (int, error) {
	for i, u := range q.urls {
		st, err := q.conns[0].Status(ctx, u)
		if err != nil {
			return 0, err
		}
		if st.Leader != 0 && st.Leader == st.Header.MemberId {
			return i, nil
		}
	}
	return 0, errors.New("no member leads")
}

func (q *etcdQueue) client(i int) *clientv3.Client { return q.conns[i%len(q.conns)] }

func jobKey(id ID) string   { return "job/" + string(id) }
func leaseKey(id ID) string { return "lease/" + string(id) }

func (q *etcdQueue) Enqueue(ctx context.Context, client int, id ID, body []byte) error {
	k := jobKey(id)
	_, err := q.client(client).Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(k), "=", 0)).Then(clientv3.OpPut(k, string(body))).Commit()
	if err == nil { // if the key was there, an earlier try of the same job had arrived
		q.mu.Lock()
		q.deck = append(q.deck, id)
		q.mu.Unlock()
	}
	return err
}

// reserve takes one job, if it is there and free, and returns its body.
func (q *etcdQueue) reserve(ctx context.Context, client int, id ID) ([]byte, error) {
	k, l := jobKey(id), leaseKey(id)
	r, err := q.client(client).Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(l), "=", 0), clientv3.Compare(clientv3.CreateRevision(k), ">", 0)).
		Then(clientv3.OpPut(l, fmt.Sprint(client)), clientv3.OpGet(k)).Commit()
	if err != nil {
		return nil, err
	}
	if !r.Succeeded {
		return nil, fmt.Errorf("job %s is not free", id)
	}
	return r.Responses[1].GetResponseRange().Kvs[0].Value, nil
}

func (q *etcdQueue) complete(ctx context.Context, client int, id ID) error {
	k, l := jobKey(id), leaseKey(id)
	r, err := q.client(client).Txn(ctx).If(clientv3.Compare(clientv3.Value(l), "=", fmt.Sprint(client))).
		Then(clientv3.OpDelete(k), clientv3.OpDelete(l)).Commit()
	if err == nil && !r.Succeeded {
		err = fmt.Errorf("job %s is not held by client %d", id, client)
	}
	return err
}

func (q *etcdQueue) deal() (id ID, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.deck) > 0 {
		id, q.deck = q.deck[0], q.deck[1:]
		if !q.taken[id] {
			return id, true
		}
	}
	return "", false
}

func (q *etcdQueue) ReserveComplete(ctx context.Context, client int) (bool, error) {
	id, ok := q.deal()
	if !ok {
		return false, nil
	}
	if _, err := q.reserve(ctx, client, id); err != nil {
		return false, err
	}
	return true, q.complete(ctx, client, id)
}

func (q *etcdQueue) Take(ctx context.Context, client int) (ID, func(context.Context) error, error) {
	if q.watches[client] == nil {
		life := clientv3.WithRequireLeader(context.Background()) // ends with the connection
		q.watches[client] = q.client(client).Watch(life, "job/", clientv3.WithPrefix(), clientv3.WithFilterDelete())
	}
	for len(q.pending[client]) == 0 {
		select {
		case r, ok := <-q.watches[client]:
			if !ok || r.Err() != nil {
				return "", nil, errors.Join(errors.New("the watch ended"), r.Err())
			}
			q.pending[client] = r.Events
		case <-ctx.Done():
			return "", nil, ctx.Err()
		}
	}
	id := ID(strings.TrimPrefix(string(q.pending[client][0].Kv.Key), "job/"))
	q.pending[client] = q.pending[client][1:]
	q.mu.Lock()
	q.taken[id] = true
	q.mu.Unlock()
	if _, err := q.reserve(ctx, client, id); err != nil {
		return "", nil, err
	}
	return id, func(ctx context.Context) error { return q.complete(ctx, client, id) }, nil
}

func (q *etcdQueue) KillLeader(ctx context.Context) error {
	i, err := q.leader(ctx)
	if err != nil {
		return err
	}
	q.kids[i].kill()
	return nil
}

func (q *etcdQueue) Held(ctx context.Context) ([]ID, error) {
	var held []ID
	from := "job/"
	for {
		var r *clientv3.GetResponse
		if err := until(ctx, "read jobs back", func(ctx context.Context) (err error) {
			r, err = q.conns[0].Get(ctx, from, clientv3.WithRange("job0"), clientv3.WithLimit(5000), clientv3.WithKeysOnly())
			return err
		}); err != nil {
			return held, err
		}
		for _, kv := range r.Kvs {
			held = append(held, ID(strings.TrimPrefix(string(kv.Key), "job/")))
			from = string(kv.Key) + "\x00"
		}
		if !r.More {
			return held, nil
		}
	}
}

func (q *etcdQueue) Servers() []*child { return q.kids }

func (q *etcdQueue) Close() {
	for _, c := range q.conns {
		_ = c.Close()
	}
	stop(q.kids)
}
