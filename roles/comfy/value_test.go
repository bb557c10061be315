package comfy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
)

func TestObjectKeepsOrderAndBytes(t *testing.T) {
	raw := `{"z":18446744073709551615, "a" : 8.0,"\u00e9":{"k":[1, 2]}, "a":"last"}`
	o, err := comfy.ParseObject(json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, f := range o {
		keys = append(keys, f.Key)
	}
	if got, want := strings.Join(keys, ","), "z,a,é,a"; got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
	if got, _ := o.Lookup("a"); string(got) != `"last"` {
		t.Errorf("a doubled key gave %s", got)
	}
	if got, _ := o.Lookup("z"); string(got) != "18446744073709551615" {
		t.Errorf("seed became %s", got)
	}
	if got, _ := o.Lookup("é"); string(got) != `{"k":[1, 2]}` {
		t.Errorf("inner value became %s", got)
	}
}

func TestParseObjectRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"array": `[1]`, "text": `"x"`, "nothing": ``, "broken": `{"a":`, "two values": `{} {}`, "trailing comma": `{"a":1,}`, "number": `12`,
	} {
		if _, err := comfy.ParseObject(json.RawMessage(raw)); !errors.Is(err, comfy.ErrMalformed) {
			t.Errorf("%s: error %v, want malformed", name, err)
		}
	}
	deep := strings.Repeat(`{"a":`, comfy.MaxDepth+1) + "1" + strings.Repeat("}", comfy.MaxDepth+1)
	if _, err := comfy.ParseObject(json.RawMessage(deep)); !errors.Is(err, comfy.ErrTooLarge) {
		t.Errorf("deep nesting: error %v, want too large", err)
	}
}

func TestObjectMarshals(t *testing.T) {
	var o comfy.Object
	o.Set("b", json.RawMessage("1"))
	o.Set("a<b", json.RawMessage(`"<"`))
	o.Set("b", json.RawMessage("2"))
	o.Set("empty", nil)
	got, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"b":2,"a<b":"<","empty":null}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	o.Delete("b")
	if _, ok := o.Lookup("b"); ok {
		t.Error("b is still there")
	}
	var back comfy.Object
	if err := json.Unmarshal(got, &back); err != nil || len(back) != 3 {
		t.Errorf("read back %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte("null"), &back); err != nil || back != nil {
		t.Errorf("null gave %v, %v", back, err)
	}
}

func TestSanitize(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{"a":NaN}`, `{"a":null}`},
		{`[NaN,Infinity,-Infinity, 1]`, `[null,null,null, 1]`},
		{`{"NaN":"Infinity \" NaN"}`, `{"NaN":"Infinity \" NaN"}`},
		{`{"a":"\\","b":NaN}`, `{"a":"\\","b":null}`},
		{`{"a":1}`, `{"a":1}`},
		{`NaN`, `null`},
		{`xNaN`, `xNaN`},
		{`"unclosed NaN`, `"unclosed NaN`},
	} {
		if got := string(comfy.Sanitize([]byte(c.in))); got != c.want {
			t.Errorf("Sanitize(%s) = %s, want %s", c.in, got, c.want)
		}
	}
}

func FuzzSanitize(f *testing.F) {
	for _, s := range []string{`{"a":NaN,"b":["-Infinity",-Infinity]}`, `"\`, `NaNNaN`, `{"a":"NaN"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := comfy.Sanitize(raw)
		if json.Valid(raw) && string(got) != string(raw) {
			t.Errorf("valid JSON changed: %q to %q", raw, got)
		}
		if again := comfy.Sanitize(got); string(again) != string(got) {
			t.Errorf("a second pass changed %q to %q", got, again)
		}
	})
}

func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{"a":{"b":[1,"x",null]}}`, `{}`, ` { "a" : 1 } `, `{"\ud800":1}`, `{"a":1e5,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := comfy.ParseObject(raw)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatalf("accepted %q which is not an object: %v", raw, err)
		}
		for k, v := range want {
			got, ok := o.Lookup(k)
			if !ok || string(got) != string(v) {
				t.Errorf("%q: member %q is %q, want %q", raw, k, got, v)
			}
		}
	})
}
