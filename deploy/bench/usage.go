//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what was used up to one instant. Differences of two are what a
// phase used.
type usage struct {
	at      time.Time
	cpus    int
	idle    time.Duration // all processors; the kernel measures it, while it only samples the busy time
	own     time.Duration // this process: the clients
	servers time.Duration
	flushes uint64 // of the device below the data
}

const tick = time.Second / 100 // USER_HZ, fixed at 100 on Linux

func takeUsage(kids []*child, dev device) (usage, error) {
	u := usage{at: time.Now()}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(stat)) {
		switch f := strings.Fields(line); { // name user nice system idle iowait ...
		case !strings.HasPrefix(line, "cpu"):
		case f[0] != "cpu":
			u.cpus++
		default:
			idle, _ := strconv.ParseInt(f[4], 10, 64)
			iowait, _ := strconv.ParseInt(f[5], 10, 64)
			u.idle = time.Duration(idle+iowait) * tick
		}
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	u.own = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	for _, c := range kids {
		if !c.alive() {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid()))
		if err != nil {
			return u, fmt.Errorf("read the processor time of %s: %w", c.name, err)
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3, the state
		utime, _ := strconv.ParseInt(f[11], 10, 64)
		stime, _ := strconv.ParseInt(f[12], 10, 64)
		u.servers += time.Duration(utime+stime) * tick
	}
	u.flushes = dev.flushes()
	return u, nil
}

// device is the whole disk below a folder, by its name in /proc/diskstats;
// empty where it cannot be told (overlay, tmpfs).
type device string

func deviceOf(dir string) device {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) != nil {
		return ""
	}
	major := (st.Dev>>8)&0xfff | (st.Dev>>32)&^0xfff
	minor := st.Dev&0xff | (st.Dev>>12)&^0xff
	path, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(path, "partition")); err == nil {
		path = filepath.Dir(path) // flushes are counted for whole disks only
	}
	return device(filepath.Base(path))
}

func (d device) flushes() uint64 {
	b, err := os.ReadFile("/proc/diskstats")
	if err != nil || d == "" {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		// 3 columns of names, then 17 counters; the 16th is flush requests.
		if f := strings.Fields(line); len(f) >= 20 && f[2] == string(d) {
			n, _ := strconv.ParseUint(f[18], 10, 64)
			return n
		}
	}
	return 0
}
