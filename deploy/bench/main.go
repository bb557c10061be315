//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const help = `bench measures the same queue work on NATS JetStream R3, etcd, Redis and our own
replicated log, in turns, on this machine, and prints one line for each figure.

  go build -o /tmp/bench . && /tmp/bench --ours "/path/to/node"

cell lines are single rounds, bench lines medians over the rounds with their ranges,
ratio lines are against nats-r3 within the same round. Without --ours our side is
left out. Rows with foreign_cores above 0.35 were disturbed by other processes.

`

// options of a run.
type options struct {
	systems  []string
	bodies   []int
	clients  []int
	seconds  float64
	rounds   int
	kills    int
	watch    float64
	dispatch int
	hog      float64
	conns    int
	ours     string
	dir      string
	budget   time.Duration
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var names, bodies, clients string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() { fmt.Fprint(out, help); fs.PrintDefaults() }
	fs.StringVar(&names, "systems", "nats-r3,etcd,redis,ours", "systems, in the order of their turns")
	fs.StringVar(&bodies, "bodies", "1024,65536", "body sizes in bytes")
	fs.StringVar(&clients, "clients", "1,16,64", "numbers of clients")
	fs.Float64Var(&o.seconds, "seconds", 1.5, "length of one phase")
	fs.IntVar(&o.rounds, "rounds", 3, "how often every system has its turn in each cell")
	fs.IntVar(&o.kills, "kills", 3, "leader kills of each system")
	fs.Float64Var(&o.watch, "kill-seconds", 8, "how long acknowledgements are watched after a kill, at least")
	fs.IntVar(&o.dispatch, "dispatch", 100, "jobs of the idle dispatch phase of one round; 0 leaves it out")
	fs.IntVar(&o.conns, "conns", 1, "connections the clients share on NATS, etcd and ours; 0: one for each client")
	fs.Float64Var(&o.hog, "hog-seconds", 0, "how long our nodes are watched for false elections under CPU and fsync hogs, in each profile; 0 leaves it out")
	fs.StringVar(&o.ours, "ours", "", "command of our node, see wire.go")
	fs.StringVar(&o.dir, "dir", os.TempDir(), "folder on the disk to measure; a folder of its own is made in it and removed")
	fs.DurationVar(&o.budget, "budget", 40*time.Minute, "the whole run ends after this time")
	quick := fs.Bool("quick", false, "a smoke test under 60 s: one round of 0.4 s phases, 1 KiB, 1 and 64 clients, no kills; other flags still override")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		given := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, v := range map[string]string{"bodies": "1024", "clients": "1,64", "seconds": "0.4", "rounds": "1", "kills": "0"} {
			if !given[name] {
				_ = fs.Set(name, v) // our own constants parse
			}
		}
	}
	var err error
	if o.bodies, err = numbers(bodies, idLen, 64<<10); err != nil {
		return o, fmt.Errorf("--bodies: %w", err)
	}
	if o.clients, err = numbers(clients, 1, 1024); err != nil {
		return o, fmt.Errorf("--clients: %w", err)
	}
	if o.seconds <= 0 || o.seconds > 60 || o.rounds < 0 || o.rounds > 100 || o.kills < 0 || o.kills > 100 || o.dispatch < 0 || o.dispatch > 10_000 || o.watch < 0.2 || o.watch > 25 || o.hog < 0 || o.hog > 3600 {
		return o, errors.New("--seconds up to 60, --rounds and --kills up to 100, --dispatch up to 10000, --kill-seconds up to 25, --hog-seconds up to 3600")
	}
	o.systems = strings.Split(names, ",")
	for _, n := range o.systems {
		if !slices.ContainsFunc(systems(), func(s system) bool { return s.name == n }) {
			return o, fmt.Errorf("--systems: there is no %q", n)
		}
	}
	if o.ours == "" {
		o.systems = slices.DeleteFunc(o.systems, isOurs)
	}
	return o, nil
}

func isOurs(name string) bool { return strings.HasPrefix(name, "ours") }

func numbers(list string, lo, hi int) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < lo || n > hi {
			return nil, fmt.Errorf("%q is not a number from %d to %d", s, lo, hi)
		}
		out = append(out, n)
	}
	return out, nil
}

func redisVersion() string {
	b, _ := exec.Command("redis-server", "--version").Output()
	for f := range strings.FieldsSeq(string(b)) {
		if v, ok := strings.CutPrefix(f, "v="); ok {
			return v
		}
	}
	return ""
}

// role is what this process does when it was started by itself.
func role(args []string) (is bool, err error) {
	if len(args) != 3 {
		return false, nil
	}
	switch args[1] {
	case "janitor":
		return true, janitor(args[2])
	case "hog-cpu":
		return true, hogCPU()
	case "hog-fsync":
		return true, hogFsync(args[2])
	case "serve-nats":
		return true, natsRole(args[2])
	case "serve-etcd":
		return true, etcdRole(args[2])
	}
	return false, nil
}

func main() {
	is, err := role(os.Args)
	if !is {
		err = run(os.Args[1:], os.Stdout)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) (err error) {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, o.budget)
	defer cancel()
	l, err := newLab(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	b := &bench{o: o, lab: l, dev: deviceOf(l.dir), report: newReport(out)}
	b.report.env(l.dir, b.dev, o)
	if o.ours == "" {
		fmt.Fprintln(out, "note ours=skipped no --ours was given")
	}
	b.cells(ctx)
	b.kills(ctx)
	b.hogs(ctx)
	b.report.summary()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("the run was cut short: %w", err)
	}
	if b.report.failed > 0 {
		return fmt.Errorf("%d cells failed", b.report.failed)
	}
	return nil
}

// bench is one run.
type bench struct {
	o      options
	lab    *lab
	dev    device
	report *report
}

// start brings one system up on empty folders and lets it settle.
func (b *bench) start(ctx context.Context, name string, s Setup) (Queue, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	s.Lab, s.Ours = b.lab, b.o.ours
	if s.Profile == "" {
		s.Profile = "wan"
	}
	i := slices.IndexFunc(systems(), func(s system) bool { return s.name == name })
	q, err := systems()[i].start(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	time.Sleep(200 * time.Millisecond)
	return q, nil
}

// conns is how many connections the clients share, with one more where a
// producer must not stand behind the worker.
func (b *bench) conns(clients int, producer bool) int {
	n := b.o.conns
	if n == 0 || n > clients {
		n = clients
	}
	if producer {
		n++
	}
	return n
}

// cells lets the systems take turns within each round and size, so that
// neighbours in time are compared.
func (b *bench) cells(ctx context.Context) {
	for round := range b.o.rounds {
		for _, body := range b.o.bodies {
			for _, clients := range b.o.clients {
				for _, name := range b.o.systems {
					if ctx.Err() != nil {
						return
					}
					if err := b.cell(ctx, round, body, clients, name); err != nil {
						b.report.fail("system=%s round=%d body=%d clients=%d %v", name, round+1, body, clients, err)
					}
				}
			}
		}
	}
}

func (b *bench) cell(ctx context.Context, round, body, clients int, name string) error {
	// The dispatch phase comes first: it needs an empty queue.
	idle := b.o.dispatch > 0 && body == b.o.bodies[0] && clients == b.o.clients[0]
	q, err := b.start(ctx, name, Setup{Clients: clients + 1, Conns: b.conns(clients, idle)})
	if err != nil {
		return err
	}
	defer q.Close()
	c := newCell(q, b.dev, clients+1, body)
	if idle {
		f, err := c.dispatch(ctx, b.o.dispatch)
		if err != nil {
			return err
		}
		b.report.add(what{"dispatch", body, 1}, name, round, f)
	}
	c.clients = clients
	if _, err := c.loadEnqueue(ctx, warmUp); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	d := time.Duration(b.o.seconds * float64(time.Second))
	f, err := c.loadEnqueue(ctx, d)
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	b.report.add(what{"enq", body, clients}, name, round, f)
	if _, err := c.loadWork(ctx, warmUp, 15); err != nil {
		return fmt.Errorf("warm up of reserve and complete: %w", err)
	}
	if f, err = c.loadWork(ctx, d, 80); err != nil {
		return fmt.Errorf("reserve and complete: %w", err)
	}
	b.report.add(what{"rc", body, clients}, name, round, f)
	return nil
}

func (b *bench) kills(ctx context.Context) {
	type turn struct{ label, name, profile string }
	var turns []turn
	for _, name := range b.o.systems {
		switch {
		case name == "ours":
			turns = append(turns, turn{"ours-wan", name, "wan"}, turn{"ours-site", name, "site"})
		case !isOurs(name):
			turns = append(turns, turn{name, name, ""})
		}
	}
	for range b.o.kills {
		for _, t := range turns {
			if ctx.Err() != nil {
				return
			}
			k, err := b.kill(ctx, t.name, t.profile)
			if err != nil {
				b.report.fail("system=%s kill %v", t.label, err)
				continue
			}
			b.report.addKill(t.label, k)
		}
	}
}

func (b *bench) kill(ctx context.Context, name, profile string) (killed, error) {
	q, err := b.start(ctx, name, Setup{Clients: killWriters, Conns: b.conns(killWriters, false), Kill: true, Profile: profile})
	if err != nil {
		return killed{}, err
	}
	defer q.Close()
	return newCell(q, b.dev, killWriters, 1024).kill(ctx, time.Duration(b.o.watch*float64(time.Second)))
}
