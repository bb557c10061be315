package gpu_test

import (
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// Nearly every node finds its files in any folder; a few look in one place only,
// and 3D views name theirs inside an object. The name that ComfyUI gives a file
// counts, not the one that was asked for.
func TestFilesGoWhereTheirNodesLook(t *testing.T) {
	s := newScripted(t)
	s.info = `{"Load3D":{"input":{},"output":[],"output_node":true},"OpenAIInputFiles":{"input":{},"output":[]},"LoadImage":{"input":{},"output":[]}}`
	s.view = viewing("")
	var mu sync.Mutex
	folders := map[string]string{}
	s.upload = func(name, folder string) string {
		mu.Lock()
		defer mu.Unlock()
		folders[name[strings.IndexByte(name, '-')+1:]] = folder
		return "as-it-likes-" + name
	}
	s.prompt = func(w http.ResponseWriter, id string) {
		s.keep(id, bareEntry)
		s.accept(w, id)
		s.say(id, sayStart, sayCached, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	graph := `{"1":{"class_type":"Load3D","inputs":{"model_file":"3d/head.glb","image":{"image":"threed/scene.png [temp]","camera_info":{"fov":35.0}}}},` +
		`"2":{"class_type":"OpenAIInputFiles","inputs":{"file":"brief.pdf"}},"3":{"class_type":"LoadImage","inputs":{"image":"é ü.png [output]","batch":{"__value__":["a.png","b.png"]}}}}`
	row := b.ends(b.submit("p-1", graph, func(c *jobs.Submit) {
		for _, value := range []string{"3d/head.glb", "threed/scene.png [temp]", "brief.pdf", "é ü.png [output]", "a.png"} {
			ref, size := b.put(value)
			name := strings.Fields(value[strings.LastIndexByte(value, '/')+1:])[0]
			c.Inputs = append(c.Inputs, jobs.Input{Value: value, Name: name, Ref: ref, Size: size})
		}
	}))
	if row.State != jobs.Done {
		t.Fatalf("%s %+v", row.State, row.Failure)
	}
	mu.Lock()
	defer mu.Unlock()
	for name, prefix := range map[string]string{"head.glb": "3d/gw/", "scene.png": "gw/", "brief.pdf": "", "a.png": "gw/"} {
		if got, ok := folders[name]; !ok || !strings.HasPrefix(got, prefix) || prefix == "" && got != "" {
			t.Errorf("%s went to %q, want %q", name, got, prefix)
		}
	}
	sent := string(s.sent())
	for _, gone := range []string{`"3d/head.glb"`, "[temp]", "[output]", `"brief.pdf"`, `"a.png"`} {
		if strings.Contains(sent, gone) {
			t.Errorf("sent %s with the user's own %s", sent, gone)
		}
	}
	for _, kept := range []string{`"fov":35.0`, `"b.png"`, `as-it-likes-`} { // b.png is no file of theirs
		if !strings.Contains(sent, kept) {
			t.Errorf("sent %s without %s", sent, kept)
		}
	}
}

// A folder that a node reads as a whole goes as a whole, under the names that
// pair pictures with texts; one that changed is another folder there. A dataset
// that one job leaves for the next lies with its user.
func TestFoldersGoAsAWhole(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("")
	s.info = `{"LoadImageTextDataSetFromFolder":{"input":{},"output":[],"output_node":true},"SaveTrainingDataset":{"input":{},"output":[],"output_node":true}}`
	var mu sync.Mutex
	var went []string
	s.upload = func(name, folder string) string {
		mu.Lock()
		defer mu.Unlock()
		went = append(went, folder+"/"+name)
		return name
	}
	s.prompt = func(w http.ResponseWriter, id string) {
		s.keep(id, bareEntry)
		s.accept(w, id)
		s.say(id, sayStart, sayCached, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	graph := `{"1":{"class_type":"LoadImageTextDataSetFromFolder","inputs":{"folder":"faces"}},"2":{"class_type":"SaveTrainingDataset","inputs":{"folder_name":"set","other":"faces"}}}`
	run := func(prompt string, files ...string) (folder string, sent string) {
		mu.Lock()
		went = nil
		mu.Unlock()
		row := b.ends(b.submit(prompt, graph, func(c *jobs.Submit) {
			for _, value := range files {
				ref, size := b.put(value)
				c.Inputs = append(c.Inputs, jobs.Input{Value: value, Name: path.Base(value), Ref: ref, Size: size})
			}
		}))
		if row.State != jobs.Done {
			t.Fatalf("%s %+v", row.State, row.Failure)
		}
		sent = string(s.sent())
		_, folder, _ = strings.Cut(sent, `"folder":"`)
		folder, _, _ = strings.Cut(folder, `"`)
		return folder, sent
	}
	first, sent := run("p-1", "faces/1.png", "faces/1.txt", "faces/10_ann/é ü.png")
	mu.Lock()
	want := []string{first + "/1.png", first + "/1.txt", first + "/10_ann/é ü.png"}
	if !strings.HasPrefix(first, "gw/") || !slices.Equal(went, want) {
		t.Errorf("went to %q, want %q", went, want)
	}
	mu.Unlock()
	own, _, _ := strings.Cut(first, "/set-")
	if !strings.Contains(sent, `"folder_name":"`+own+`/set"`) || !strings.Contains(sent, `"other":"faces"`) {
		t.Errorf("sent %s", sent)
	}
	row := b.ends(b.submit("p-3", strings.ReplaceAll(graph, "faces", own), nil)) // another's, or all of a user's
	if row.State != jobs.Failed || row.Failure.Type != "input_missing" {
		t.Errorf("a folder that is no input: %s %+v", row.State, row.Failure)
	}
	if second, _ := run("p-2", "faces/1.png", "faces/1.txt"); second == first || !strings.HasPrefix(second, own+"/set-") {
		t.Errorf("with a file less it is %q again, was %q", second, first)
	}
}

// A prefix can come from another node, or hold what the server fills in: only
// literal text gets the job's folder, and what is to be filled in stays.
func TestPrefixesThatAreNotPlainText(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.keep(id, bareEntry)
		s.accept(w, id)
		s.say(id, sayStart, sayCached, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	b.ends(b.submit("p-1", `{"1":{"class_type":"Thing","inputs":{"filename_prefix":["2",0]}},"2":{"class_type":"Thing","inputs":{"filename_prefix":"film/%year%-%batch_num%"}}}`, nil))
	sent := string(s.sent())
	if !strings.Contains(sent, `"filename_prefix":["2",0]`) || !strings.Contains(sent, `/film/%year%-%batch_num%"`) || !strings.Contains(sent, `"filename_prefix":"gw/`) {
		t.Errorf("sent %s", sent)
	}
}
