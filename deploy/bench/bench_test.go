//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets this binary play every process of a run.
func TestMain(m *testing.M) {
	is, err := role(os.Args)
	switch {
	case is:
	case len(os.Args) > 1 && os.Args[1] == "fake-node":
		err = runFakeNode(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "bench-main":
		err = run(os.Args[2:], os.Stdout)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func fakeCommand(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self + " fake-node"
}

func testLab(t *testing.T) *lab {
	t.Helper()
	l, err := newLab(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func startFake(t *testing.T, l *lab, command string) Queue {
	t.Helper()
	q, err := newOurs(t.Context(), Setup{Lab: l, Clients: 4, Conns: 2, Ours: command, Profile: "site"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

func TestOursSpeaksTheProtocol(t *testing.T) {
	q := startFake(t, testLab(t), fakeCommand(t))
	c := newCell(q, "", 4, 64<<10)
	var ids []ID
	for range 250 { // more than one page of LIST
		id, body := c.job(0)
		for range 2 { // the second time adds nothing
			if err := q.Enqueue(t.Context(), 0, id, body); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, id)
	}
	held, err := q.Held(t.Context())
	if err != nil || !slices.Equal(held, ids) {
		t.Fatalf("held %d of %d jobs, %v", len(held), len(ids), err)
	}
	done := 0
	for i := 0; ; i++ {
		ok, err := q.ReserveComplete(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		done++
	}
	if held, err = q.Held(t.Context()); err != nil || done != len(ids) || len(held) != 0 {
		t.Errorf("%d completed, %d still held, %v", done, len(held), err)
	}
}

func TestTakeWaitsForTheJob(t *testing.T) {
	q := startFake(t, testLab(t), fakeCommand(t))
	f, err := newCell(q, "", 2, 1024).dispatch(t.Context(), 3)
	if err != nil || f.n != 3 || f.p50 <= 0 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestLeaderKillIsCountedAndLostJobsAreSeen(t *testing.T) {
	for _, bug := range []string{"", "forget"} {
		t.Run("bug="+bug, func(t *testing.T) {
			q := startFake(t, testLab(t), fakeCommand(t)+" --bug="+bug)
			k, err := newCell(q, "", killWriters, 1024).kill(t.Context(), 500*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if !k.recovered || k.acked < 100 || k.gap <= 0 || k.gap > 5*time.Second || k.twice != 0 {
				t.Errorf("%+v", k)
			}
			if lost := k.lost > 0; lost != (bug == "forget") {
				t.Errorf("%+v with bug %q", k, bug)
			}
		})
	}
}

func TestWholeRunWithTheFake(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	err := run([]string{"--quick", "--ours", fakeCommand(t), "--systems", "ours", "--dir", dir, "--seconds", "0.1", "--clients", "1,4", "--dispatch", "3", "--kills", "1", "--kill-seconds", "0.3"}, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		`(?m)^cell round=1 system=ours body=1024 clients=1 dispatch_p50_ms=\d.* n=3$`,
		`(?m)^bench system=ours body=1024 clients=4 enq_per_s=\d+ p50_ms=\S+ p99_ms=\S+ flushes_per_job=\S+ cpu_us_per_job=\S+ client_cpu_us_per_job=\S+ foreign_cores=\S+ rounds=1$`,
		`(?m)^kill system=ours-wan runs=1 .* lost=0 twice=0$`,
		`(?m)^kill system=ours-site runs=1 .* lost=0 twice=0$`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line like %s in\n%s", want, out.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestServersAndFoldersGoWithAKilledBench(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(self, "bench-main", "--ours", fakeCommand(t), "--systems", "ours", "--dir", dir, "--seconds", "20")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three servers run", func() bool { return len(processesNaming(t, dir, "fake-node")) == 3 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	eventually(t, "no process is left", func() bool { return len(processesNaming(t, dir, "")) == 0 })
	eventually(t, "no folder is left", func() bool {
		left, err := os.ReadDir(dir)
		return err == nil && len(left) == 0
	})
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func processesNaming(t *testing.T, dir, word string) (found []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		b, _ := os.ReadFile(p) // it may be gone by now
		if s := string(b); strings.Contains(s, dir+"/") && strings.Contains(s, word) {
			found = append(found, s)
		}
	}
	return found
}

func TestStartThatFailsSaysWhatTheServerSaid(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := newOurs(ctx, Setup{Lab: testLab(t), Clients: 1, Conns: 1, Ours: fakeCommand(t), Profile: "moon"})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `profile "moon"`) {
		t.Errorf("got %v", err)
	}
}

func TestLongestGap(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	for _, c := range []struct {
		acks []int
		want time.Duration
	}{
		{[]int{10, 20, 70, 90}, 50 * time.Millisecond},
		{[]int{90, 20, 10}, 70 * time.Millisecond},
		{[]int{10, 20}, 80 * time.Millisecond},       // nothing until the end
		{[]int{-500, 30, 95}, 65 * time.Millisecond}, // what was before does not count
	} {
		var acks []time.Time
		for _, a := range c.acks {
			acks = append(acks, at(a))
		}
		if got := longestGap(acks, at(0), at(100)); got != c.want {
			t.Errorf("%v: got %v, want %v", c.acks, got, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	var k killed
	k.judge([]ID{"a", "b", "c"}, []ID{"a", "b", "b", "x"})
	if k.acked != 3 || k.lost != 1 || k.twice != 1 || k.extra != 1 {
		t.Errorf("%+v", k)
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	w := what{"enq", 1024, 64}
	for i, v := range [][2]float64{{100, 200}, {1000, 3000}, {10, 10}} {
		r.add(w, base, i, figure{perSec: v[0], p50: 2, p99: 4, flushes: 1, cpu: 10, n: 9})
		if i != 2 { // a round that failed has no pair
			r.add(w, "ours", i, figure{perSec: v[1], p50: 1, p99: 1, flushes: 1, cpu: 10, n: 9})
		}
	}
	r.summary()
	want := "ratio ours/nats-r3 enq c=64 body=1024 per_s=2.50 per_s_range=2.00..3.00 p50=0.50 "
	if !strings.Contains(out.String(), want) {
		t.Errorf("want %q in\n%s", want, out.String())
	}
}

// TestCampaignsAreCounted: a log that never tells of an election counts none,
// which must not pass for a run without false ones.
func TestCampaignsAreCounted(t *testing.T) {
	l := testLab(t)
	dir, err := l.folder("node")
	if err != nil {
		t.Fatal(err)
	}
	c := &child{dir: dir}
	write := func(text string) {
		if err := os.WriteFile(c.logPath(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nothing of the kind\n")
	if _, err := campaigns([]*child{c}); err == nil {
		t.Error("a log without any election was believed")
	}
	write("level=WARN msg=\"entering candidate state\" term=2\nlevel=WARN msg=\"entering candidate state\" term=3\n")
	if n, err := campaigns([]*child{c}); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
}
