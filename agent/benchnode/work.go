package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// answer does what one request asks.
func (b *bench) answer(ctx context.Context, in request) (status byte, payload []byte) {
	var err error
	switch in.op {
	case opStatus:
		return stOK, b.status()
	case opEnqueue:
		err = b.enqueue(ctx, in.payload)
	case opReserve:
		payload, err = b.reserve(ctx, in.payload)
	case opComplete:
		err = b.complete(ctx, in.payload)
	case opList:
		payload, err = b.list(ctx, in.payload)
	default:
		err = cluster.Errorf(cluster.Invalid, "op %d is not served", in.op)
	}
	switch cluster.CodeOf(err) {
	case "":
		return stOK, payload
	case codeEmpty:
		return stEmpty, nil
	case cluster.NoLeader:
		return stNotLeader, nil
	case cluster.Stale, cluster.NotFound:
		return stStale, nil
	case cluster.Invalid:
		return stBad, []byte(err.Error())
	}
	return stUnavailable, []byte(err.Error())
}

// codeEmpty says that no job waits.
const codeEmpty cluster.Code = "empty"

var errEmpty error = cluster.Errorf(codeEmpty, "no job waits")

func (b *bench) status() []byte {
	out := make([]byte, 3)
	if b.ready() {
		out[0] = 1
	}
	s := b.log.Status()
	leader, _ := strconv.Atoi(strings.TrimPrefix(string(s.Leader), "n"))
	out[1], out[2] = byte(s.Voters()), byte(leader)
	return out
}

// users is how many participants the jobs are spread over.
const users = 20

// jobID names the job of a bench's id.
func jobID(id string) jobs.ID {
	return jobs.ID{User: cluster.User(fmt.Sprintf("user%03d", 1+int(id[len(id)-1])%users)), Prompt: id}
}

func (b *bench) enqueue(ctx context.Context, p []byte) error {
	id, body, err := cutString(p)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(body)
	_, err = b.admit.Propose(ctx, &jobs.Submit{ID: jobID(id), BodyHash: hex.EncodeToString(hash[:]), Body: body, Priority: jobs.Normal})
	return err
}

// reserve claims a job as a worker does. A worker's claim waits; the bench's
// may be told to come back.
func (b *bench) reserve(ctx context.Context, p []byte) ([]byte, error) {
	if len(p) != 8 {
		return nil, errShort
	}
	worker, wait := binary.BigEndian.Uint32(p), time.Duration(binary.BigEndian.Uint32(p[4:]))*time.Millisecond
	for wait == 0 {
		if !b.log.Leads() {
			return nil, cluster.Errorf(cluster.NoLeader, "this node does not lead")
		}
		if b.nothingWaits() {
			return nil, errEmpty
		}
		a, err := b.claim(ctx, worker, time.Second)
		if !errors.Is(err, errEmpty) {
			return a, err
		}
	}
	return b.claim(ctx, worker, wait)
}

func (b *bench) nothingWaits() (empty bool) {
	b.machine.Jobs(func(t *jobs.Table) {
		empty = true
		t.Waiting(func(j *jobs.Job) bool { empty = j.State != jobs.Pending; return empty })
	})
	return empty
}

func (b *bench) claim(ctx context.Context, worker uint32, wait time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errEmpty)
	defer cancel()
	a, err := b.steward.Claim(ctx, jobs.Claim{Worker: workerID(worker), Node: "bench"})
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint64(nil, uint64(worker)<<32|a.Epoch)
	out = append(out, byte(len(a.Job.Prompt)))
	return append(append(out, a.Job.Prompt...), a.Row.Body...), nil
}

func workerID(n uint32) cluster.WorkerID { return cluster.WorkerID(fmt.Sprintf("bench.%d", n)) }

// stored is what a job's history would be: one blob, whose digest the row keeps.
var stored = cluster.Ref(strings.Repeat("0", 64))

func (b *bench) complete(ctx context.Context, p []byte) error {
	if len(p) < 8 {
		return errShort
	}
	token := binary.BigEndian.Uint64(p)
	id, _, err := cutString(p[8:])
	if err != nil {
		return err
	}
	l := jobs.Lease{Job: jobID(id), Worker: workerID(uint32(token >> 32)), Epoch: token & 0xffffffff}
	return b.steward.Finish(ctx, jobs.Finish{Lease: l, State: jobs.Done, History: stored})
}

// listed is how many ids one LIST answers.
const listed = 4096

func (b *bench) list(ctx context.Context, p []byte) ([]byte, error) {
	after, _, err := cutString(p)
	if err != nil {
		return nil, err
	}
	if err := b.log.Barrier(ctx); err != nil {
		return nil, err
	}
	var ids []string
	b.machine.Jobs(func(t *jobs.Table) {
		t.Rows(func(j *jobs.Job) bool {
			if !j.State.Ended() && cmp.Compare(j.ID.Prompt, after) > 0 {
				ids = append(ids, j.ID.Prompt)
			}
			return true
		})
	})
	slices.Sort(ids)
	out := []byte{0}
	if len(ids) > listed {
		ids, out[0] = ids[:listed], 1
	}
	for _, id := range ids {
		out = append(append(out, byte(len(id))), id...)
	}
	return out, nil
}

var errShort error = cluster.Errorf(cluster.Invalid, "the request is too short")

func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) == 0 || b[0] == 0 {
		return "", nil, nil
	}
	if len(b) < 1+int(b[0]) {
		return "", nil, errShort
	}
	return string(b[1 : 1+b[0]]), b[1+b[0]:], nil
}
