package gpu_test

import (
	"bytes"
	"image"
	"image/png"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

func TestLive(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:8188", "http://127.0.0.1:8189"} {
		t.Run(url, func(t *testing.T) {
			began := time.Now()
			b := newBench(t, url, nil)
			var picture bytes.Buffer
			_ = png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 64, 64)))
			ref, size := b.put(picture.String())
			graph := `{"1":{"class_type":"LoadImage","inputs":{"image":"cat é.png"}},"2":{"class_type":"ImageInvert","inputs":{"image":["1",0]}},"3":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"day/inv"}},"4":{"class_type":"PreviewImage","inputs":{"images":["2",0]}}}`
			for _, p := range []string{"p-1", "p-2"} {
				id := b.submit(p, graph, func(c *jobs.Submit) {
					c.Inputs = []jobs.Input{{Value: "cat é.png", Name: "cat é.png", Ref: ref, Size: size}}
				})
				row := b.ends(id)
				t.Log(time.Since(began), row.State, row.Failure, string(row.Preview), b.queue.types(id), b.queue.said())
				t.Log(string(b.history(row).Encode()))
				t.Logf("%+v", b.worker.Status())
			}
			t.Log(textChunks(t, b.output("output", "day", "inv_00001_.png")))
			bad := `{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},"2":{"class_type":"ImageCrop","inputs":{"image":["1",0],"width":64,"height":64,"x":0,"y":0}},"3":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"../../x"}}}`
			row := b.ends(b.submit("p-3", bad, nil))
			t.Log(row.State, row.Failure)
			t.Log(string(b.history(row).Encode()))
			t.Logf("%+v", b.queue.workers)
		})
	}
}
