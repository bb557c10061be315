package consensus

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// hlog lets raft write to slog. Raft's info lines are our debug lines: an
// admin at breakfast does not want heartbeats.
type hlog struct {
	s    *slog.Logger
	name string
	args []any
}

func newHclog(s *slog.Logger) hclog.Logger { return &hlog{s: s} }

var _ hclog.Logger = (*hlog)(nil)

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelDebug
}

func (h *hlog) Log(l hclog.Level, msg string, args ...any) {
	if strings.HasPrefix(msg, "heartbeat timeout reached") {
		l = hclog.Info // every start of a node says so; who leads is told elsewhere
	}
	for i, a := range args { // hclog's own formatting helpers are not slog values
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	h.s.Log(context.Background(), level(l), msg, args...)
}
func (h *hlog) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hlog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hlog) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hlog) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hlog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }
func (h *hlog) IsTrace() bool                 { return false }
func (h *hlog) IsDebug() bool                 { return h.s.Enabled(context.Background(), slog.LevelDebug) }
func (h *hlog) IsInfo() bool                  { return h.IsDebug() }
func (h *hlog) IsWarn() bool                  { return true }
func (h *hlog) IsError() bool                 { return true }
func (h *hlog) ImpliedArgs() []any            { return h.args }
func (h *hlog) With(args ...any) hclog.Logger {
	return &hlog{s: h.s.With(args...), name: h.name, args: append(h.args[:len(h.args):len(h.args)], args...)}
}
func (h *hlog) Name() string { return h.name }
func (h *hlog) Named(name string) hclog.Logger {
	return &hlog{s: h.s.With("part", name), name: name, args: h.args}
}
func (h *hlog) ResetNamed(name string) hclog.Logger { return h.Named(name) }
func (h *hlog) SetLevel(hclog.Level)                {}
func (h *hlog) GetLevel() hclog.Level               { return hclog.Warn }
func (h *hlog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(nil), "", 0)
}

func (h *hlog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return lineWriter{h}
}

type lineWriter struct{ h *hlog }

func (w lineWriter) Write(p []byte) (int, error) {
	w.h.Warn(string(p))
	return len(p), nil
}
