package agent

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/mem"

	"github.com/ahelme/comfyume/cluster"
)

// Unit is what a systemd unit needs beside the settings.
type Unit struct {
	Binary string // absolute path of the agent
	User   string // "" chooses: root where ComfyUI is started as another user, else ServiceUser
	Memory string // a size, "none", or "" for a share of this machine's
}

// ServiceUser runs the agent where nothing needs root.
const ServiceUser = "comfyume"

// serviceState is the state folder of a service that was given no other.
const serviceState = "/var/lib/comfyume"

// SecretsFile is read by systemd, so that it can belong to root alone.
const SecretsFile = "/etc/comfyume/environment"

// signOfLife is how long systemd waits for a sign of life, and stopSlack what
// it waits longer than --grace.
const (
	signOfLife = 90 * time.Second
	stopSlack  = 15 * time.Second
)

// Written is a unit, the user it runs as, and what is to be done before it can start.
type Written struct {
	Text  string
	User  string
	Notes []string
}

// Unit writes the systemd unit of a node with these settings. Flags and
// environment become its command line; secrets do not: Notes name them.
func (v *Values) Unit(u Unit) (Written, error) {
	c, err := v.Config()
	if err != nil {
		return Written{}, err
	}
	if !v.given("state-dir") {
		c.StateDir = serviceState // whoever asks for the unit has a default of their own
	}
	memory, err := memoryMax(u.Memory, &c)
	if err != nil {
		return Written{}, err
	}
	w := unitWriter{c: &c, v: v, binary: u.Binary, user: u.User, memory: memory}
	if w.user == "" {
		w.user = ServiceUser
		if c.Has(cluster.GPU) && (c.ComfyUIDir != "" || c.IdleHook != "" || c.DeadManHook != "") {
			w.user = "root"
		}
	}
	w.write()
	return Written{w.text.String(), w.user, w.notes}, nil
}

type unitWriter struct {
	c                    *Config
	v                    *Values
	binary, user, memory string
	text                 strings.Builder
	notes                []string
}

func (w *unitWriter) line(format string, args ...any) {
	fmt.Fprintf(&w.text, format+"\n", args...)
}

func (w *unitWriter) write() {
	c := w.c
	w.line("# Written by comfyume-agent unit. Change what is yours in a drop-in: systemctl edit comfyume")
	w.line("[Unit]\nDescription=ComfyuME node (%s)\nDocumentation=https://github.com/ahelme/comfyume", joinRoles(c.Roles))
	w.line("Wants=network-online.target\nAfter=network-online.target remote-fs.target\nRequiresMountsFor=%s", quoted(c.StateDir))
	w.line("StartLimitIntervalSec=10min\nStartLimitBurst=20")
	w.line("\n[Service]\nType=notify\nNotifyAccess=main\nExecStart=%s", w.command())
	if w.v.text("env-file") == "" {
		w.line("# Secrets, one KEY=value a line, e.g. ADMIN_PASSWORD=...; mode 0600.\nEnvironmentFile=-%s", SecretsFile)
	}
	w.line("User=%s\nSyslogIdentifier=comfyume", w.user)
	w.line("# The node says when it can take work, and while it opens that it still does something.\nTimeoutStartSec=%.0f", opening.Seconds())
	w.line("# A node that hangs is started again; what all of it was doing is in the journal then.\nWatchdogSec=%.0f", signOfLife.Seconds())
	w.line("# Not after an end that somebody asked for (0), or with settings that cannot work (2).\nRestart=always\nRestartSec=2\nRestartPreventExitStatus=0 2")
	w.line("# The agent ends its ComfyUIs itself, and puts their jobs back first.\nKillMode=mixed\nTimeoutStopSec=%.0f", (c.Grace + stopSlack).Seconds())
	w.line("# The agent reads this back at start (\"limits\" in the log) and stays below it.\nMemoryMax=%s", w.memory)
	if w.starts() {
		w.line("# A ComfyUI that the kernel ends for its memory does not end the agent.\nOOMPolicy=continue")
	}
	w.folders()
	w.fence()
	w.line("\n[Install]\nWantedBy=multi-user.target")
	w.secrets()
}

// starts reports whether this node starts ComfyUI.
func (w *unitWriter) starts() bool { return w.c.Has(cluster.GPU) && w.c.ComfyUIDir != "" }

// command is the line that starts the agent as it is set here.
func (w *unitWriter) command() string {
	words := []string{quoted(w.binary), "run", quoted("--state-dir=" + w.c.StateDir)}
	for _, r := range w.v.rows {
		if r.Secret || r.Name == "state-dir" || r.Origin == FromDefault || r.Origin == FromEnvFile {
			continue
		}
		text := r.Text
		switch {
		case r.Shape == Path:
			text = absolute(text)
		case r.Name == "models-dir":
			text = strings.Join(w.c.ModelDirs, ",")
		}
		words = append(words, quoted("--"+r.Name+"="+text))
	}
	return strings.Join(words, " \\\n  ")
}

// quoted is a word as systemd reads it back.
func quoted(s string) string {
	plain := func(r rune) bool { return r > ' ' && r != 0x7f && !strings.ContainsRune(`"'\;`, r) }
	out := strings.NewReplacer("%", "%%", "$", "$$").Replace(s)
	if out != "" && !strings.ContainsFunc(out, func(r rune) bool { return !plain(r) }) {
		return out
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(out) + `"`
}

// folders are those that this node writes to; everything else is read-only.
func (w *unitWriter) folders() {
	c := w.c
	write := []string{c.StateDir}
	if w.starts() {
		write = append(write, c.StateDir+"-comfyui")
	}
	var made, named []string
	for _, d := range write {
		if filepath.Dir(d) == "/var/lib" && quoted(d) == d {
			made = append(made, filepath.Base(d))
		} else {
			named = append(named, d)
		}
	}
	named = append(named, c.keepFolders()...)
	if c.Network == netLoopback && !c.Dev {
		named = append(named, c.Hall)
	}
	if len(made) > 0 {
		mode := "0700"
		if w.starts() {
			mode = "0711" // ComfyUI's user goes through to its own; the agent closes the state folder
		}
		w.line("StateDirectory=%s\nStateDirectoryMode=%s", strings.Join(made, " "), mode)
	}
	for _, d := range named {
		w.line("ReadWritePaths=%s", quoted(d))
		w.notes = append(w.notes, fmt.Sprintf("the folder %s must be there before the start, and %s must be able to write to it", d, w.user))
	}
}

// fence is what the node may not do. What ComfyUI and its custom nodes need is
// left open where this node starts it: compilers, GPU devices, another user.
func (w *unitWriter) fence() {
	rights := w.rights()
	w.line("\nNoNewPrivileges=yes\nCapabilityBoundingSet=%s", strings.Join(rights, " "))
	if w.user != "root" {
		w.line("AmbientCapabilities=%s", strings.Join(rights, " "))
	}
	home := "yes"
	if w.starts() || w.below("/home", "/root", "/run/user") {
		home = "read-only" // a Python may live there
	}
	w.line("ProtectSystem=strict\nProtectHome=%s", home)
	if !w.below("/tmp", "/var/tmp") {
		w.line("PrivateTmp=yes")
	}
	w.line("ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes\nProtectClock=yes\nProtectHostname=yes")
	w.line("RestrictNamespaces=yes\nRestrictSUIDSGID=yes\nRestrictRealtime=yes\nLockPersonality=yes\nRestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK")
	if !w.starts() {
		w.line("SystemCallArchitectures=native\nSystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM\nUMask=0077")
	}
	if !w.c.Has(cluster.GPU) {
		w.line("PrivateDevices=yes\nProtectProc=invisible\nRemoveIPC=yes")
	}
}

// rights are the capabilities that this node needs.
func (w *unitWriter) rights() (out []string) {
	c := w.c
	listens := []string{c.SiteListen, c.ProbeListen}
	if c.Has(cluster.Gateway) {
		listens = append(listens, c.GatewayListen, c.RedirectListen)
	}
	if slices.ContainsFunc(listens, low) {
		out = append(out, "CAP_NET_BIND_SERVICE") // with port 443 comes 80
	}
	if w.starts() && w.user == "root" {
		// To start ComfyUI as its user, give it its folders, write its settings there, and end it.
		out = append(out, "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL")
	}
	return out
}

// low reports whether an address has a port that not everybody may listen on.
func low(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 1024
}

// below reports whether something that the node needs lies under one of the folders.
func (w *unitWriter) below(tops ...string) bool {
	c := w.c
	all := append([]string{w.binary, c.StateDir, c.ComfyUIDir, c.ComfyUIPython}, append(c.ModelDirs, c.keepFolders()...)...)
	if c.Network == netLoopback && !c.Dev {
		all = append(all, c.Hall)
	}
	for _, r := range w.v.rows {
		if r.Shape == Path && r.Name != "loopback-dir" {
			all = append(all, absolute(r.Text))
		}
	}
	return slices.ContainsFunc(all, func(path string) bool {
		return slices.ContainsFunc(tops, func(top string) bool { return strings.HasPrefix(path, top+"/") })
	})
}

// secrets names what was set here and must be brought to the service otherwise.
func (w *unitWriter) secrets() {
	for _, r := range w.v.All() {
		if r.Secret && r.Text != "" && r.Origin == FromEnv {
			w.notes = append(w.notes, fmt.Sprintf("%s is set here and not written into the unit: put it into %s (mode 0600)", r.Key, SecretsFile))
		}
	}
	if path := absolute(w.v.text("env-file")); path != "" {
		w.notes = append(w.notes, fmt.Sprintf("%s must be able to read %s", w.user, path))
	}
}

// memoryMax is the bound of the unit's memory, ComfyUI included. By itself it
// leaves the machine something: a node that only holds the table needs little.
func memoryMax(text string, c *Config) (string, error) {
	const none = "none"
	switch {
	case text == none:
		return "infinity", nil
	case text != "":
		n, err := parseSize(text)
		if err != nil || n < 256<<20 {
			return "", cluster.Errorf(cluster.Invalid, "--memory-max=%s: use a size of 256MiB or more, such as 2GiB, or none", text)
		}
		return mebibytes(n), nil
	}
	all := memoryLimit("/")
	if m, err := mem.VirtualMemory(); err == nil && (all == 0 || int64(m.Total) < all) { //nolint:gosec // no machine has that much
		all = int64(m.Total) //nolint:gosec // likewise
	}
	switch {
	case all == 0:
		return "infinity", nil
	case c.Has(cluster.GPU) && c.ComfyUIDir != "":
		return mebibytes(all / 16 * 15), nil
	}
	return mebibytes(max(all/2, 512<<20)), nil
}

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + "M" }
