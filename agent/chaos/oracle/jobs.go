package oracle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"sync"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// Kind of a job.
type Kind string

// The kinds. Each gives one picture of a colour that only this job has, but for
// Raise, which fails, and Exit, which ends its ComfyUI and fails after three
// tries.
const (
	Plain    Kind = "plain"
	Slow     Kind = "slow"
	Inverted Kind = "inverted" // of an uploaded picture
	Scaled   Kind = "scaled"   // likewise
	Raise    Kind = "raise"
	Exit     Kind = "exit"
)

// Job is one prompt of one person.
type Job struct {
	User    string
	ID      string
	Kind    Kind
	RGB     int // of EmptyImage or of the upload
	Size    int
	Seconds float64
	Prefix  string // of its output's name
	Input   string // name of the upload

	mu       sync.Mutex
	tried    bool
	accepted time.Time
	number   float64
	cancel   bool // somebody tried to
	verdict  verdict
}

// verdict is how a cancel was answered.
type verdict int

const (
	unanswered verdict = iota
	cancelled          // it was in time
	tooLate            // it was not
)

// Fails reports whether the job must fail.
func (j *Job) Fails() bool { return j.Kind == Raise || j.Kind == Exit }

// Accepted is when it was answered 200; zero before.
func (j *Job) Accepted() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.accepted
}

// IsAccepted reports whether it was.
func (j *Job) IsAccepted() bool { return !j.Accepted().IsZero() }

// CancelAsked reports whether somebody tried to cancel it.
func (j *Job) CancelAsked() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cancel
}

// wanted is the colour and the size of its picture.
func (j *Job) wanted() (rgb, size int) {
	switch j.Kind {
	case Inverted:
		return doortest.Invert(j.RGB), j.Size
	case Scaled:
		return j.RGB, 2 * j.Size
	}
	return j.RGB, j.Size
}

// Check compares a picture with what the job must give.
func (j *Job) Check(raw []byte) error {
	rgb, size := j.wanted()
	return doortest.Uniform(raw, rgb, size)
}

// picture is what the job's person uploads for it.
func (j *Job) picture() ([]byte, error) {
	img := image.NewRGBA(image.Rect(0, 0, j.Size, j.Size))
	c := color.RGBA{uint8(j.RGB >> 16), uint8(j.RGB >> 8), uint8(j.RGB), 255}
	for i := range j.Size * j.Size {
		img.SetRGBA(i%j.Size, i/j.Size, c)
	}
	var buf bytes.Buffer
	err := png.Encode(&buf, img)
	return buf.Bytes(), err
}

// saver is the node whose output is the job's picture.
const saver = "9"

// Graph is the prompt in API form.
func (j *Job) Graph() doortest.Graph {
	save := func(from string) doortest.Node {
		return doortest.Node{Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link(from, 0), "filename_prefix": j.Prefix}}
	}
	empty := doortest.Node{Class: "EmptyImage", Inputs: map[string]any{"width": j.Size, "height": j.Size, "batch_size": 1, "color": j.RGB}}
	load := doortest.Node{Class: "LoadImage", Inputs: map[string]any{"image": j.Input}}
	switch j.Kind {
	case Slow:
		return doortest.Graph{"1": empty, "2": {Class: "SketchSlow", Inputs: map[string]any{"image": doortest.Link("1", 0), "seconds": j.Seconds, "steps": 4}}, saver: save("2")}
	case Inverted:
		return doortest.Graph{"1": load, "2": {Class: "ImageInvert", Inputs: map[string]any{"image": doortest.Link("1", 0)}}, saver: save("2")}
	case Scaled:
		return doortest.Graph{"1": load, "2": {Class: "ImageScale", Inputs: map[string]any{"image": doortest.Link("1", 0), "upscale_method": "nearest-exact", "width": 2 * j.Size, "height": 2 * j.Size, "crop": "disabled"}}, saver: save("2")}
	case Raise, Exit:
		mode := "raise"
		if j.Kind == Exit {
			mode = "exit"
		}
		return doortest.Graph{"1": empty, "2": {Class: "SketchFail", Inputs: map[string]any{"image": doortest.Link("1", 0), "mode": mode}}, saver: save("2")}
	}
	return doortest.Graph{"1": empty, saver: save("1")}
}

// body is what is posted, the same each time.
func (j *Job) body() map[string]any {
	return map[string]any{"prompt": j.Graph(), "prompt_id": j.ID, "client_id": clientID(j.User)}
}

func (j *Job) String() string { return fmt.Sprintf("%s/%s (%s)", j.User, j.ID, j.Kind) }

// ExitPrompt is a prompt that ends the ComfyUI to which it is sent directly.
func ExitPrompt() io.Reader {
	j := &Job{Kind: Exit, RGB: 1, Size: 8, Prefix: "exit"}
	raw, err := json.Marshal(map[string]any{"prompt": j.Graph(), "client_id": "chaos"})
	if err != nil {
		panic(err) // it is always the same
	}
	return bytes.NewReader(raw)
}
