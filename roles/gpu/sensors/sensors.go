// Package sensors reads what this machine's GPUs say of themselves, by the
// tools that come with their drivers: nvidia-smi and rocm-smi. It promises to
// come back in time although such a tool hangs when a driver does, and to say
// "unknown" instead of a number that is not there. Where neither tool is (a Mac,
// a machine without a GPU), ComfyUI's own /system_stats has to do.
package sensors

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Unknown stands for a number that the tool does not give.
const Unknown = -1

// GPU is one device at a moment. Sizes are bytes; Unknown where not given.
type GPU struct {
	Index int // as CUDA_VISIBLE_DEVICES counts with CUDA_DEVICE_ORDER=PCI_BUS_ID
	Name  string
	Total int64
	Used  int64
	Free  int64
	Load  int // per cent
	Heat  int // degrees Celsius
}

// Tool is what was asked.
type Tool string

// The tools.
const (
	NVIDIA Tool = "nvidia-smi"
	ROCm   Tool = "rocm-smi"
)

// ErrNone says that neither tool is on this machine.
var ErrNone = errors.New("no GPU was found: neither nvidia-smi nor rocm-smi is on this machine")

// Reader asks the tools. The zero value is for production.
type Reader struct {
	Path   func(tool string) (string, error) // nil = exec.LookPath
	Within time.Duration                     // 0 = 5 s
}

// Read asks the first tool that is there.
func (r Reader) Read(ctx context.Context) ([]GPU, Tool, error) {
	look := r.Path
	if look == nil {
		look = exec.LookPath
	}
	for _, t := range []struct {
		tool  Tool
		args  []string
		parse func([]byte) ([]GPU, error)
	}{
		{NVIDIA, []string{"--query-gpu=index,name,memory.total,memory.used,memory.free,utilization.gpu,temperature.gpu", "--format=csv,noheader,nounits"}, ParseNVIDIA},
		{ROCm, []string{"--showproductname", "--showmeminfo", "vram", "--showuse", "--showtemp", "--json"}, ParseROCm},
	} {
		path, err := look(string(t.tool))
		if err != nil {
			continue
		}
		raw, err := r.run(ctx, path, t.args)
		if err != nil {
			return nil, t.tool, err
		}
		all, err := t.parse(raw)
		if err != nil {
			return nil, t.tool, fmt.Errorf("read what %s says: %w", t.tool, err)
		}
		return all, t.tool, nil
	}
	return nil, "", ErrNone
}

// maxOutput bounds what is read of a tool, in bytes.
const maxOutput = 1 << 20

// run is one call. A tool that hangs in its driver cannot even be killed: it is
// left behind.
func (r Reader) run(ctx context.Context, path string, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.Within, 5*time.Second))
	defer cancel()
	cmd := exec.Command(path, args...) //nolint:gosec // the driver's own tool
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{buf: &out}, &limited{buf: &bad}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", path, err)
	}
	done := make(chan error, 1) // one send
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", path, err, firstLine(out.String()+bad.String()))
		}
		return out.Bytes(), nil
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("%s does not answer: its driver may hang; if it stays so, restart the machine", path)
	}
}

// limited keeps the beginning and takes the rest.
type limited struct{ buf *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line[:min(len(line), 200)]
}

// ParseNVIDIA reads the CSV of nvidia-smi as Read asks for it: memory in MiB,
// "[N/A]" or "[Not Supported]" where a card does not tell.
func ParseNVIDIA(raw []byte) ([]GPU, error) {
	rows := csv.NewReader(bytes.NewReader(raw))
	rows.TrimLeadingSpace, rows.FieldsPerRecord, rows.LazyQuotes = true, 7, true
	all, err := rows.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%w: %q", err, firstLine(string(raw)))
	}
	var out []GPU
	for _, row := range all {
		index, err := strconv.Atoi(row[0])
		if err != nil || index < 0 {
			return nil, fmt.Errorf("a row without an index: %q", firstLine(strings.Join(row, ", ")))
		}
		out = append(out, GPU{Index: index, Name: name(row[1]), Total: mebi(row[2]), Used: mebi(row[3]), Free: mebi(row[4]), Load: number(row[5]), Heat: number(row[6])})
	}
	return out, nil
}

// maxName bounds a device's name.
const maxName = 100

func name(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	return s
}

func number(s string) int {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(f >= 0 && f < 1e6) {
		return Unknown
	}
	return int(f)
}

func mebi(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return Unknown
	}
	return n << 20
}

// ParseROCm reads the JSON of rocm-smi: {"card0": {"VRAM Total Memory (B)":
// "17163091968", ...}, "system": {...}}, every value a text.
func ParseROCm(raw []byte) ([]GPU, error) {
	var cards map[string]map[string]string
	if i := bytes.IndexByte(raw, '{'); i > 0 {
		raw = raw[i:] // warnings stand before it
	}
	if err := json.Unmarshal(raw, &cards); err != nil {
		return nil, err
	}
	var out []GPU
	for card, facts := range cards {
		n, ok := strings.CutPrefix(card, "card")
		index, err := strconv.Atoi(n)
		if !ok || err != nil || index < 0 {
			continue
		}
		g := GPU{Index: index, Total: size(facts["VRAM Total Memory (B)"]), Used: size(facts["VRAM Total Used Memory (B)"]), Free: Unknown, Load: Unknown, Heat: Unknown}
		if g.Total >= 0 && g.Used >= 0 && g.Used <= g.Total {
			g.Free = g.Total - g.Used
		}
		for key, v := range facts {
			switch low := strings.ToLower(key); {
			case low == "card series":
				g.Name = name(v)
			case low == "gpu use (%)":
				g.Load = number(v)
			case strings.HasPrefix(low, "temperature"):
				g.Heat = max(g.Heat, number(v)) // edge, junction and memory: the hottest counts
			}
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b GPU) int { return cmp.Compare(a.Index, b.Index) })
	return out, nil
}

func size(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 {
		return Unknown
	}
	return n
}
