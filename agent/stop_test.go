package agent_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/agent"
)

func TestStopGoesBackwards(t *testing.T) {
	s := agent.NewStack(slog.New(slog.DiscardHandler))
	var order []string
	for _, name := range []string{"network", "log", "door"} {
		s.Push(name, func(context.Context) error { order = append(order, name); return nil })
	}
	if err := s.Stop(time.Second); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "door log network" {
		t.Errorf("stopped %s", got)
	}
	if err := s.Stop(time.Second); err != nil || len(order) != 3 {
		t.Errorf("stopping again did something: %v, %v", order, err)
	}
}

func TestStopNamesWhatIsLateAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := agent.NewStack(slog.New(slog.NewTextHandler(&log, nil)))
		last := false
		s.Push("network", func(context.Context) error { last = true; return nil })
		s.Start("stuck", func(context.Context) error {
			time.Sleep(time.Hour) // deaf to its ctx
			return nil
		})
		s.Push("broken", func(context.Context) error { return errors.New("no luck") })
		begin := time.Now()
		err := s.Stop(10 * time.Second)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("stopping took %v", took)
		}
		if err == nil || !strings.Contains(err.Error(), "stop stuck: did not end in time") || !strings.Contains(err.Error(), "stop broken: no luck") {
			t.Errorf("error = %v", err)
		}
		if !last {
			t.Error("a stuck part kept the others from being stopped")
		}
		if !strings.Contains(log.String(), "stopping takes long") || !strings.Contains(log.String(), "step=stuck") {
			t.Errorf("the log does not name the late step:\n%s", log.String())
		}
		time.Sleep(2 * time.Hour) // let the deaf part end
	})
}

func TestPartThatEndsByItselfFailsTheNode(t *testing.T) {
	s := agent.NewStack(slog.New(slog.DiscardHandler))
	s.Start("door", func(context.Context) error { return errors.New("the socket is gone") })
	if err := <-s.Failed(); err == nil || err.Error() != "door: the socket is gone" {
		t.Errorf("failed with %v", err)
	}
	if err := s.Stop(time.Second); err == nil {
		t.Error("its error is lost at the stop")
	}
}
