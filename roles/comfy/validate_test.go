package comfy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/go-cmp/cmp"
)

const validateInfo = `{
 "Make": {"input":{"required":{"n":["INT",{"min":1,"max":10}],"f":["FLOAT",{}],"mode":[["a","b"],{}]},"optional":{"s":["STRING",{}]}},"output":["IMAGE"]},
 "Other": {"input":{"required":{}},"output":["AUDIO"]},
 "Load": {"input":{"required":{"image":[["x.png"],{"image_upload":true}]}},"output":["IMAGE"]},
 "Sound": {"input":{"required":{"audio":["COMBO",{"audio_upload":true,"options":[]}]}},"output":["AUDIO"]},
 "Grow": {"input":{"required":{"images":["COMFY_AUTOGROW_V3",{}]}},"output":["IMAGE"]},
 "Pass": {"input":{"required":{"image":["IMAGE"]}},"output":["IMAGE"]},
 "Save": {"input":{"required":{"images":["IMAGE"],"filename_prefix":["STRING",{}]}},"output":[],"output_node":true}
}`

// validateResult writes what Validate said, one line a fact.
func validateResult(t *testing.T, prompt string, opt comfy.ValidateOptions) string {
	t.Helper()
	info, err := comfy.ParseObjectInfo([]byte(validateInfo))
	if err != nil {
		t.Fatal(err)
	}
	outputs, nodes, refused := comfy.Validate(parseGraph(t, prompt), info, opt)
	var lines []string
	if len(outputs) > 0 {
		lines = append(lines, "outputs "+strings.Join(outputs, " "))
	}
	if refused != nil {
		lines = append(lines, refused.Detail.Type+": "+refused.Error())
	}
	for id, e := range nodes {
		for _, d := range e.Errors {
			lines = append(lines, fmt.Sprintf("%s(%s) %s: %s -> %s", id, e.ClassType, d.Type, d.Details, strings.Join(e.DependentOutputs, " ")))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestValidate(t *testing.T) {
	const save = `"9":{"class_type":"Save","inputs":{"images":["1",0],"filename_prefix":"x"}}`
	mine := func(name string) bool { return name == "mine.png" || name == "sub/é.png [output]" }
	for _, c := range []struct {
		name, prompt string
		opt          comfy.ValidateOptions
		want         string
	}{
		{name: "good", prompt: `{"1":{"class_type":"Make","inputs":{"n":3,"f":"1.5","mode":"b"}},` + save + `}`, want: "outputs 9"},
		{
			name: "empty", prompt: `{}`,
			want: "prompt_no_outputs: The workflow is empty: Add at least one node that saves or previews an image, then queue again.",
		},
		{
			name: "no class type", prompt: `{"7":{"inputs":{}}}`,
			want: "invalid_prompt: Cannot execute because a node is missing the class_type property.: Node ID '#7'",
		},
		{
			name: "unknown class", prompt: `{"7":{"class_type":"What"}}`,
			want: "invalid_prompt: Cannot execute because node What does not exist.: Node ID '#7'",
		},
		{
			name: "unknown class that a server replaces", prompt: `{"7":{"class_type":"What","inputs":{}}}`,
			opt: comfy.ValidateOptions{Replaced: func(c string) bool { return c == "What" }}, want: "outputs 7",
		},
		{name: "no outputs", prompt: `{"1":{"class_type":"Make","inputs":{"n":3,"f":1,"mode":"b"}}}`, want: "prompt_no_outputs: Prompt has no outputs"},
		{
			name: "partial target that is no output", prompt: `{"1":{"class_type":"Make","inputs":{"n":3,"f":1,"mode":"b"}},` + save + `}`,
			opt: comfy.ValidateOptions{PartialTargets: []string{"1"}}, want: "prompt_no_outputs: Prompt has no outputs",
		},
		{
			name: "inner errors", prompt: `{"1":{"class_type":"Make","inputs":{"n":"x","f":null}},` + save + `}`,
			want: "1(Make) invalid_input_type: f, null -> 9\n1(Make) invalid_input_type: n, \"x\" -> 9\n1(Make) required_input_missing: mode -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation",
		},
		{
			name: "error of the output itself", prompt: `{"9":{"class_type":"Save","inputs":{"images":["1",0]}},"1":{"class_type":"Other","inputs":{}}}`,
			want: "9(Save) required_input_missing: filename_prefix -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation: Required input is missing: filename_prefix",
		},
		{
			name: "one of two outputs", prompt: `{"1":{"class_type":"Make","inputs":{"n":3,"f":1,"mode":"b"}},` + save + `,"8":{"class_type":"Save","inputs":{}}}`,
			want: "8(Save) required_input_missing: filename_prefix -> 8\n8(Save) required_input_missing: images -> 8\noutputs 9",
		},
		{name: "unreachable nodes are not judged", prompt: `{"1":{"class_type":"Make","inputs":{"n":3,"f":1,"mode":"b"}},` + save + `,"5":{"class_type":"Make","inputs":{}}}`, want: "outputs 9"},
		{
			name: "dangling link", prompt: `{"9":{"class_type":"Save","inputs":{"images":["99",0],"filename_prefix":"x"}}}`,
			want: "9(Save) exception_during_validation: images: linked node '#99' is not in the prompt -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation: Exception when validating node: images: linked node '#99' is not in the prompt",
		},
		{
			name: "bad link", prompt: `{"9":{"class_type":"Save","inputs":{"images":["1"],"filename_prefix":"x"}}}`,
			want: "9(Save) bad_linked_input: images -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation: Bad linked input, must be a length-2 list of [node_id, slot_index]: images",
		},
		{
			name: "cycle", prompt: `{"1":{"class_type":"Pass","inputs":{"image":["2",0]}},"2":{"class_type":"Pass","inputs":{"image":["1",0]}},` + save + `}`,
			want: "2(Pass) dependency_cycle: Node ID '#1' needs its own result -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation",
		},
		{name: "what only a server may refuse", prompt: `{"1":{"class_type":"Make","inputs":{"n":99,"f":1,"mode":"zzz"}},` + save + `}`, want: "outputs 9"},
		{name: "types only a server may compare", prompt: `{"1":{"class_type":"Other","inputs":{}},` + save + `}`, want: "outputs 9"},
		{name: "made-up inputs", prompt: `{"1":{"class_type":"Grow","inputs":{"images.0":["4",0]}},"4":{"class_type":"Other"},` + save + `}`, want: "outputs 9"},
		{
			name: "strict ranges", prompt: `{"1":{"class_type":"Make","inputs":{"n":99,"f":1,"mode":"zzz"}},` + save + `}`, opt: comfy.ValidateOptions{Strict: true},
			want: "1(Make) value_bigger_than_max: n -> 9\n1(Make) value_not_in_list: mode: 'zzz' not in [a, b] -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation",
		},
		{
			name: "strict types", prompt: `{"1":{"class_type":"Other","inputs":{}},` + save + `}`, opt: comfy.ValidateOptions{Strict: true},
			want: "9(Save) return_type_mismatch: images, received_type(AUDIO) mismatch input_type(IMAGE) -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation: Return type mismatch between linked nodes: images, received_type(AUDIO) mismatch input_type(IMAGE)",
		},
		{
			name: "strict slots", prompt: `{"1":{"class_type":"Other","inputs":{}},"9":{"class_type":"Save","inputs":{"images":["1",4],"filename_prefix":"x"}}}`, opt: comfy.ValidateOptions{Strict: true},
			want: "9(Save) exception_during_validation: images: node '#1' has no output 4 -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation: Exception when validating node: images: node '#1' has no output 4",
		},
		{name: "wrapped values", prompt: `{"1":{"class_type":"Make","inputs":{"n":{"__value__":3},"f":true,"mode":{"__value__":["a","b"]}}},` + save + `}`, want: "outputs 9"},
		{name: "my file", prompt: `{"1":{"class_type":"Load","inputs":{"image":"mine.png"}},` + save + `}`, opt: comfy.ValidateOptions{FileExists: mine}, want: "outputs 9"},
		{name: "my output", prompt: `{"1":{"class_type":"Load","inputs":{"image":"sub/é.png [output]"}},` + save + `}`, opt: comfy.ValidateOptions{FileExists: mine}, want: "outputs 9"},
		{
			name: "a file that is only on the server", prompt: `{"1":{"class_type":"Load","inputs":{"image":"x.png"}},` + save + `}`, opt: comfy.ValidateOptions{FileExists: mine},
			want: "1(Load) custom_validation_failed: image - Invalid image file: x.png -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation",
		},
		{
			name: "a missing file among several", prompt: `{"1":{"class_type":"Sound","inputs":{"audio":{"__value__":["mine.png","gone.wav"]}}},` + save + `}`, opt: comfy.ValidateOptions{FileExists: mine},
			want: "1(Sound) custom_validation_failed: audio - Invalid audio file: gone.wav -> 9\nprompt_outputs_failed_validation: Prompt outputs failed validation",
		},
	} {
		if diff := cmp.Diff(c.want, validateResult(t, c.prompt, c.opt)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, diff)
		}
	}
}

func TestValidateErrorsCarryTheInput(t *testing.T) {
	info, err := comfy.ParseObjectInfo([]byte(validateInfo))
	if err != nil {
		t.Fatal(err)
	}
	_, _, refused := comfy.Validate(parseGraph(t, `{"1":{"class_type":"Make","inputs":{"n":"x","f":1,"mode":"a"}},"9":{"class_type":"Save","inputs":{"images":["1",0],"filename_prefix":"x"}}}`), info, comfy.ValidateOptions{})
	want := `{"error":{"type":"prompt_outputs_failed_validation","message":"Prompt outputs failed validation","details":"","extra_info":{}},"node_errors":{"1":{"errors":[{"type":"invalid_input_type","message":"Failed to convert an input value to a INT value","details":"n, \"x\"","extra_info":{"input_name":"n","input_config":["INT",{"min":1,"max":10}],"received_value":"x"}}],"dependent_outputs":["9"],"class_type":"Make"}}}`
	if diff := cmp.Diff(want, string(refused.Encode())); diff != "" {
		t.Error(diff)
	}
}
