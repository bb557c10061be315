package doortest_test

import (
	"bytes"
	"image/color"
	"os"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// A second gateway serves the same people the same things at once, and when the
// first one's machine and disk vanish in mid-class it has all of it: files, workflows,
// history, and the job that runs, which ends as if nothing had been.
func TestGatewayMachineVanishesInMidClass(t *testing.T) {
	hall := doortest.Hall(t)
	first := doortest.Start(t, doortest.Options{Roles: "queue,gateway", Hall: hall, Name: "mello"})
	second := doortest.Start(t, doortest.Options{Roles: "queue,gateway", Hall: hall, Name: "annex"})
	doortest.Start(t, doortest.Options{Roles: "queue", Hall: hall, Name: "cellar"})
	doortest.Start(t, doortest.Options{Roles: "gpu", Hall: hall, Name: "verda", Args: []string{"--comfyui-url", "sketch"}})
	doortest.Until(t, time.Minute, "three nodes vote", func() bool {
		return bytes.Contains([]byte(site(t, first, "/metrics")), []byte("comfyume_log_voters_current 3"))
	})
	c, d := first.Client("user001"), second.Client("user001")
	picture, job := work(t, c)
	begin := time.Now()
	found(t, d, picture, job)
	t.Logf("all of it at the other gateway after %s", time.Since(begin).Round(time.Millisecond))
	var running struct {
		PromptID string `json:"prompt_id"`
	}
	ws := d.Socket(t, "film")
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Slow(1, 64, 4, 10), "client_id": "film"}, &running)

	first.Kill()
	if err := os.RemoveAll(first.StateDir); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	found(t, d, picture, job)
	t.Logf("the other gateway served all of it %s after the machine was gone", time.Since(begin).Round(time.Millisecond))
	ws.UntilEnd(t, running.PromptID, time.Minute)
	doortest.Until(t, time.Minute, "something can be saved", func() bool {
		code, _, _, err := d.Do("POST", "/userdata/workflows%2Fafter.json?overwrite=true", `{}`)
		return err == nil && code == 200
	})
	t.Logf("and took changes again after %s at the latest", time.Since(begin).Round(time.Millisecond))
	var history map[string]doortest.Entry
	d.JSON(t, "GET", "/history", nil, &history)
	if len(history) != 2 {
		t.Errorf("the history has %d jobs of 2", len(history))
	}
}

// TestPersonWithoutFoldersUploadsAndRenders (predecessor 60): nobody made folders for
// somebody who comes for the first time; what they upload and render is there.
func TestPersonWithoutFoldersUploadsAndRenders(t *testing.T) {
	a := doortest.Start(t, doortest.Options{})
	c := a.Client("user002")
	name := upload(t, c, "first take.png", picture(t, 16, func(x, y int) color.Color { return color.Gray{uint8(x * y)} }))
	ws := c.Socket(t, "page")
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"client_id": "page", "prompt": doortest.Graph{
		"1": {Class: "LoadImage", Inputs: map[string]any{"image": name}},
		"2": {Class: "ImageInvert", Inputs: map[string]any{"image": doortest.Link("1", 0)}},
		"9": {Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link("2", 0), "filename_prefix": "scene 1/take"}},
	}}, &accepted)
	ws.UntilEnd(t, accepted.PromptID, time.Minute)
	for _, view := range []string{"/view?type=input&filename=first%20take.png", "/view?type=output&subfolder=scene%201&filename=take_00001_.png"} {
		if code, _, raw, err := c.Do("GET", view, nil); err != nil || code != 200 || !bytes.HasPrefix(raw, []byte("\x89PNG")) {
			t.Errorf("%s: %d, %.20q, %v", view, code, raw, err)
		}
	}
	if code, _, _, err := c.Do("POST", "/userdata/workflows%2Fscenes%2Fone.json", film); err != nil || code != 200 {
		t.Errorf("a workflow in a folder of its own: %d, %v", code, err)
	}
}
