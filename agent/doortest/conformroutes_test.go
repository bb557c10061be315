package doortest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"maps"
	"mime/multipart"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent/doortest"
)

// exchange is one request of the script that both get.
type exchange struct {
	name         string
	method, path string
	body         any
	header       []string
	// want is how the answers are compared beyond their status: "bytes", "json"
	// (equal values), "shape" (equal keys and kinds of values) or "" (not at all).
	want string
	// but says why the two differ on purpose; the status at the door is then
	// doorStatus.
	but        string
	doorStatus int
	// fork is the status that the 0.12 fork answers where 0.3.64 answers what the
	// door does.
	fork int
}

// form is a multipart body as a page sends it; the file's part is called image.
func form(t *testing.T, file string, content []byte, fields ...string) (body []byte, contentType string) {
	t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	if file != "" {
		part, err := w.CreateFormFile("image", file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := part.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if err := w.WriteField(fields[i], fields[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), w.FormDataContentType()
}

// routeScript is what pages and scripts ask for beside prompts. Every name in
// it is new to both servers.
func routeScript(t *testing.T, tag string) []exchange {
	one := picture(t, 8, func(x, _ int) color.Color { return color.NRGBA{uint8(x * 30), 9, 9, 120} })
	two := picture(t, 8, func(x, _ int) color.Color { return color.NRGBA{uint8(x * 30), 7, 7, 255} })
	up := func(name string, e exchange, file string, content []byte, fields ...string) exchange {
		body, kind := form(t, file, content, fields...)
		e.name, e.method, e.body, e.header = name, "POST", body, []string{"Content-Type", kind}
		if e.path == "" {
			e.path = "/upload/image"
		}
		return e
	}
	get := func(path, want string) exchange {
		return exchange{name: "GET " + path, method: "GET", path: path, want: want}
	}
	doc := "/userdata/" + tag + "%2Fa%20b%20c%25.json"
	moved := "/userdata/" + tag + "%2Fmoved%20%C3%A9.json"
	file := tag + ".png"
	return []exchange{
		{name: "save a workflow", method: "POST", path: doc + "?overwrite=false", body: `{"seed": 18446744073709551615, "x": 8.0}`, want: "json"},
		{name: "save it again", method: "POST", path: doc + "?overwrite=false", body: `{}`, want: ""},
		{name: "overwrite it", method: "POST", path: doc + "?overwrite=true&full_info=true", body: `{"seed": 18446744073709551615, "x": 8.0}`, want: "shape"},
		get(doc, "bytes"),
		get("/userdata?dir="+tag, "json"), get("/userdata?dir="+tag+"&split=true", "json"), get("/userdata?dir="+tag+"&recurse=true&full_info=true", "shape"),
		get("/userdata?dir=nowhere-"+tag, "bytes"), get("/userdata", "bytes"), get("/v2/userdata?path="+tag, "shape"),
		{name: "move it", method: "POST", path: doc + "/move/" + tag + "%2Fmoved%20%C3%A9.json?overwrite=false", want: "json"},
		{name: "move what is gone", method: "POST", path: doc + "/move/" + tag + "%2Fx.json", want: ""},
		get(doc, ""), get(moved, "bytes"),
		{name: "delete it", method: "DELETE", path: moved, want: "bytes"},
		{name: "delete it again", method: "DELETE", path: moved, want: ""},
		get("/userdata/workflows/raw-slash.json", ""),
		{name: "one setting as text", method: "POST", path: "/settings/Test." + tag, body: `{"a": [1, 8.0, "x"]}`, header: []string{"Content-Type", "text/plain"}, want: "bytes"},
		{name: "merge settings", method: "POST", path: "/settings", body: `{"Test.other": false}`, want: "bytes"},
		get("/settings/Test."+tag, "json"), get("/settings/Test.never", "json"),

		up("upload", exchange{want: "json"}, file, one), up("the same again", exchange{want: "json"}, file, one), up("others of that name", exchange{want: "json"}, file, two),
		up("overwrite", exchange{want: "json"}, file, two, "overwrite", "true"), up("into a folder", exchange{want: "json"}, "image.png", one, "subfolder", tag+"/pasted"),
		up("temporary", exchange{want: "json"}, file, one, "type", "temp", "subfolder", "threed"), up("into output", exchange{want: "json"}, file, one, "type", "output"),
		up("out of the folder", exchange{want: ""}, file, one, "subfolder", "../../x"), up("no file", exchange{want: ""}, "", nil, "type", "input"),
		up("no such type", exchange{want: "", but: "ComfyUI answers 500 where the mistake is the client's", doorStatus: 400}, file, one, "type", "models"),
		up("a mask", exchange{path: "/upload/mask", want: "json"}, "mask-"+file, two, "original_ref", `{"filename":"`+file+`","subfolder":"","type":"input"}`, "subfolder", "clipspace"),
		up("a mask of nothing", exchange{path: "/upload/mask", want: "", but: "ComfyUI answers 200 and writes nothing: the page then shows a picture that is not there", doorStatus: 400}, "mask.png", two, "original_ref", `{"filename":"nowhere.png","type":"input"}`),
		get("/view?type=input&filename="+file, "bytes"), get("/view?filename="+file+"+%5Binput%5D", "bytes"), get("/view?type=temp&subfolder=threed&filename="+file, "bytes"),
		{name: "a range", method: "GET", path: "/view?type=input&filename=" + file, header: []string{"Range", "bytes=3-9"}, want: "bytes"},
		{name: "the end of it", method: "GET", path: "/view?type=input&filename=" + file, header: []string{"Range", "bytes=-5"}, want: "bytes"},
		{name: "beyond it", method: "GET", path: "/view?type=input&filename=" + file, header: []string{"Range", "bytes=99999999-"}, want: ""},
		get("/view?type=input&filename=nowhere.png", "bytes"), get("/view", "bytes"), get("/view?type=models&filename=a.png", "bytes"),
		{name: "a name that climbs", method: "GET", path: "/view?filename=..%2Fa.png", want: "bytes", fork: 404},
		{name: "a folder that climbs", method: "GET", path: "/view?filename=a.png&subfolder=..%2F..%2Fx", want: "bytes", fork: 404},
		{name: "a preview", method: "GET", path: "/view?type=input&filename=" + file + "&preview=jpeg", want: ""},
		get("/view?type=input&preview=webp%3B80&filename="+file, ""), get("/view?type=input&channel=rgb&filename="+file, ""),
		get("/internal/files/models", "json"),

		{name: "queue", method: "GET", path: "/queue", want: "json"},
		{name: "history of nobody", method: "GET", path: "/history/none", want: "json"},
		{name: "history with words for numbers", method: "GET", path: "/history?max_items=many", want: "", but: "ComfyUI answers 500 where the mistake is the client's", doorStatus: 400},
		{name: "clear the queue", method: "POST", path: "/queue", body: `{"clear":true}`, want: "bytes"},
		{name: "delete nobody's job", method: "POST", path: "/queue", body: `{"delete":["none"]}`, want: "bytes"},
		{name: "delete nobody's history", method: "POST", path: "/history", body: `{"delete":["none"]}`, want: "bytes"},
		{name: "interrupt without a word", method: "POST", path: "/interrupt", want: "bytes"},
		{name: "interrupt nobody", method: "POST", path: "/interrupt", body: `{"prompt_id":"none"}`, want: "bytes"},
		{name: "free", method: "POST", path: "/free", body: `{"unload_models":false,"free_memory":false}`, want: "bytes"},
		{name: "prompt", method: "GET", path: "/prompt", want: "json"},
		get("/users", "shape"), get("/i18n", ""), get("/embeddings", "json"), get("/models", ""), get("/models/nowhere", ""), get("/models/vae_approx", "json"),
		get("/experiment/models/nowhere", ""), get("/view_metadata/checkpoints?filename=none.safetensors", ""),
		get("/object_info/NoSuchClass", "json"), get("/object_info/SaveImage", "json"), get("/object_info/KSampler", "json"), get("/internal/logs/raw", ""),
		get("/nowhere", ""),
		{name: "a wrong method", method: "PUT", path: "/settings", want: ""},
	}
}

func conformRoutes(t *testing.T, direct, door *doortest.Client) {
	tag := fmt.Sprintf("c%d", nonce())
	script := routeScript(t, tag)
	compared := 0
	for _, e := range script {
		var codes [2]int
		var bodies [2][]byte
		for i, c := range []*doortest.Client{direct, door} {
			var err error
			if codes[i], _, bodies[i], err = c.Do(e.method, e.path, e.body, e.header...); err != nil {
				t.Fatalf("%s: %v", e.name, err)
			}
		}
		want := codes[0]
		switch {
		case e.but != "":
			want = e.doorStatus
		case e.fork != 0 && codes[0] == e.fork:
			want = codes[1]
		}
		if codes[1] != want {
			t.Errorf("%s: ComfyUI itself %d %.200s\nthrough the door: %d %.200s", e.name, codes[0], bodies[0], codes[1], bodies[1])
			continue
		}
		compared++
		if d := differ(e.want, bodies[0], bodies[1]); d != "" {
			t.Errorf("%s: %s\nComfyUI itself: %.400s\nthrough the door: %.400s", e.name, d, bodies[0], bodies[1])
		}
	}
	fmt.Printf("conformance_routes compared=%d of=%d\n", compared, len(script))
}

// differ compares two answers; "" when they are equal.
func differ(how string, a, b []byte) string {
	if how == "" {
		return ""
	}
	if how == "bytes" {
		if !bytes.Equal(a, b) {
			return "other bytes"
		}
		return ""
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return "not JSON"
	}
	if how == "shape" {
		x, y = shape(x), shape(y)
	}
	if fmt.Sprint(x) != fmt.Sprint(y) {
		return "other " + how
	}
	return ""
}

// shape replaces values by their kinds; of a list only the first element counts.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, inner := range v {
			out[k] = shape(inner)
		}
		return out
	case []any:
		if len(v) == 0 {
			return "empty list"
		}
		return []any{shape(v[0])}
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", v), "json.")
}

// keysOf lists an entry's members, sorted.
func keysOf(m map[string]any) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }
