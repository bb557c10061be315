//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// fakeNode speaks the protocol of wire.go and is no queue to trust: its three
// processes share one journal file, and the lowest id that answers leads.
type fakeNode struct {
	id      int
	bug     string // "forget": every 50th job is acknowledged and not kept
	journal string
	peers   []string

	mu      sync.Mutex
	leads   bool
	file    *os.File
	jobs    map[string][]byte
	queue   []string // waiting, oldest first
	tokens  map[string]uint64
	token   uint64
	waiters []chan string // each gets one id
	n       int
}

type fakeLine struct {
	ID   string
	Body []byte
	Done bool
}

func runFakeNode(args []string) error {
	f := &fakeNode{jobs: map[string][]byte{}, tokens: map[string]uint64{}}
	var dir, listen, peers, profile string
	fs := flag.NewFlagSet("fake-node", flag.ContinueOnError)
	fs.StringVar(&f.bug, "bug", "", "")
	fs.IntVar(&f.id, "id", 0, "")
	fs.StringVar(&dir, "dir", "", "")
	fs.StringVar(&listen, "listen", "", "")
	fs.StringVar(&peers, "peers", "", "")
	fs.StringVar(&profile, "profile", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if profile != "wan" && profile != "site" {
		return fmt.Errorf("profile %q", profile)
	}
	f.journal = filepath.Join(filepath.Dir(dir), "fake-"+strings.NewReplacer(":", "-", ",", "-", "=", "-").Replace(peers))
	for p := range strings.SplitSeq(peers, ",") {
		_, addr, _ := strings.Cut(p, "=")
		f.peers = append(f.peers, addr)
	}
	beat, err := net.Listen("tcp", f.peers[f.id-1])
	if err != nil {
		return err
	}
	go func() {
		for {
			if c, err := beat.Accept(); err == nil {
				_ = c.Close()
			}
		}
	}()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	go f.elect()
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go f.serve(c)
	}
}

func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func (f *fakeNode) elect() {
	for _, p := range f.peers {
		for !answers(p) {
			time.Sleep(5 * time.Millisecond)
		}
	}
	for slices.ContainsFunc(f.peers[:f.id-1], answers) {
		time.Sleep(5 * time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if f.file, err = os.OpenFile(f.journal, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		panic(err)
	}
	for d := json.NewDecoder(f.file); ; {
		var l fakeLine
		if d.Decode(&l) != nil {
			break
		}
		if l.Done {
			delete(f.jobs, l.ID)
			f.queue = slices.DeleteFunc(f.queue, func(id string) bool { return id == l.ID })
		} else {
			f.jobs[l.ID] = l.Body
			f.queue = append(f.queue, l.ID)
		}
	}
	f.leads = true
}

func (f *fakeNode) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	var mu sync.Mutex
	for {
		n, op, payload, err := readFrame(r)
		if err != nil {
			return
		}
		go func() {
			status, out := f.handle(op, payload)
			b := binary.BigEndian.AppendUint32(nil, uint32(frameHead+len(out)))
			b = binary.BigEndian.AppendUint64(b, n)
			mu.Lock()
			defer mu.Unlock()
			_, _ = c.Write(append(append(b, status), out...))
		}()
	}
}

func (f *fakeNode) handle(op byte, p []byte) (byte, []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op == opStatus {
		return stOK, []byte{map[bool]byte{true: 1}[f.leads], byte(len(f.peers)), 0}
	}
	if !f.leads {
		return stNotLeader, nil
	}
	switch op {
	case opEnqueue:
		id, body, err := cutString(p)
		if err != nil {
			return stBad, []byte(err.Error())
		}
		return f.enqueue(id, body), nil
	case opReserve:
		return f.reserve(time.Duration(binary.BigEndian.Uint32(p[4:])) * time.Millisecond)
	case opComplete:
		return f.complete(p), nil
	case opList:
		return f.list(p)
	}
	return stBad, []byte("unknown op")
}

func (f *fakeNode) write(l fakeLine) {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	if _, err := f.file.Write(append(b, '\n')); err != nil {
		panic(err)
	}
}

func (f *fakeNode) enqueue(id string, body []byte) byte {
	if _, ok := f.jobs[id]; ok {
		return stOK
	}
	if f.n++; f.bug == "forget" && f.n%50 == 0 {
		return stOK
	}
	f.write(fakeLine{ID: id, Body: body})
	f.jobs[id] = body
	if len(f.waiters) > 0 {
		f.waiters[0] <- id
		f.waiters = f.waiters[1:]
		return stOK
	}
	f.queue = append(f.queue, id)
	return stOK
}

// reserve gives f.mu away while it waits.
func (f *fakeNode) reserve(wait time.Duration) (byte, []byte) {
	var id string
	switch {
	case len(f.queue) > 0:
		id, f.queue = f.queue[0], f.queue[1:]
	case wait > 0:
		ch := make(chan string, 1)
		f.waiters = append(f.waiters, ch)
		f.mu.Unlock()
		select {
		case id = <-ch:
			f.mu.Lock()
		case <-time.After(wait):
			f.mu.Lock()
			f.waiters = slices.DeleteFunc(f.waiters, func(c chan string) bool { return c == ch })
			select {
			case id = <-ch:
			default:
				return stEmpty, nil
			}
		}
	default:
		return stEmpty, nil
	}
	f.token++
	f.tokens[id] = f.token
	return stOK, append(append(binary.BigEndian.AppendUint64(nil, f.token), wireString(id)...), f.jobs[id]...)
}

func (f *fakeNode) complete(p []byte) byte {
	id, _, err := cutString(p[8:])
	if err != nil {
		return stBad
	}
	if f.tokens[id] == 0 || f.tokens[id] != binary.BigEndian.Uint64(p) {
		return stStale
	}
	f.write(fakeLine{ID: id, Done: true})
	delete(f.tokens, id)
	delete(f.jobs, id)
	return stOK
}

func (f *fakeNode) list(p []byte) (byte, []byte) {
	after, _, err := cutString(p)
	if err != nil {
		return stBad, nil
	}
	var ids []string
	for id := range f.jobs {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	out := []byte{0}
	for i, id := range ids {
		if i == 100 { // less than 4,096: the bench must ask again
			out[0] = 1
			break
		}
		out = append(out, wireString(id)...)
	}
	return stOK, out
}
