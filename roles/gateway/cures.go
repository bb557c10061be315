package gateway

import (
	"errors"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/comfy"
)

// promptCures say what to do about a workflow that was refused, by the type of
// the error.
func promptCures() map[string]string {
	red := " at the node that is red"
	return map[string]string{
		"no_prompt": "The page sent no workflow: reload it.", "invalid_prompt": "No GPU machine has that node: install its pack there, or use a workflow without it.",
		"missing_node_type": "No GPU machine has that node: install its pack there, or use a workflow without it.",
		"prompt_no_outputs": "Add a node that saves or shows something, such as Save Image, and connect it.", "required_input_missing": "Connect or fill in the input" + red + ".",
		"bad_linked_input": "Connect the input again" + red + ".", "return_type_mismatch": "Connect an output of the right kind" + red + ".", "dependency_cycle": "Take out the loop" + red + ".",
		"value_not_in_list":      "No GPU machine has that model or choice: choose another" + red + ", or put the model where ComfyUI finds it.",
		"value_smaller_than_min": "Change the value" + red + ".", "value_bigger_than_max": "Change the value" + red + ".", "invalid_input_type": "Change the value" + red + ".",
		"custom_validation_failed": "Choose or upload the file again" + red + ".", "queue_full": "They wait for jobs of their own to end, or cancel some; the bound is --max-queue-depth.",
		"disk_quota":  "They remove files at their /NAME/workshop/files, or you let them have more: comfyume-agent queue quota NAME --disk.",
		"no_space":    "Free space on the disk of the gateway's state folder, see comfyume-agent disk; then they queue it again.",
		"unavailable": "It comes back by itself, or see Attention for the node that is missing.", "prompt_id_used": "Queue it again: the page makes a new id.",
		"invalid_prompt_id": "Their program must send another prompt_id, or none.", "invalid_client_id": "Reload the page.",
	}
}

// codeCures likewise, for errors of ours.
func codeCures() map[cluster.Code]string {
	return map[cluster.Code]string{
		cluster.Forbidden: "They are at somebody else's address, or came from another site: send them to their own /NAME/.", cluster.TooLarge: "A smaller file. The bound of all but uploads is --max-body.",
		cluster.Quota: "Wait as long as the sentence says, or do what it says.", cluster.Unavailable: "It comes back by itself, or see Attention for the node that is missing.",
		cluster.NoLeader: "See Attention: too few of the nodes that vote answer.", cluster.NoSpace: "Free space on the disk of the gateway's state folder, see comfyume-agent disk.",
		cluster.Internal: "A defect of ours: the log of that node has the whole error under this id.", cluster.Stale: "Reload the page.",
	}
}

// cure is what the instructor can tell a person whose request was answered with
// a status >= 400; "" when the text says all.
func cure(status int, err error) string {
	var p *comfy.PromptError
	if errors.As(err, &p) {
		return promptCure(p)
	}
	if err != nil {
		if c := codeCures()[cluster.CodeOf(err)]; c != "" {
			return c
		}
	}
	switch status {
	case fasthttp.StatusNotFound:
		return "It is not stored, or not any more: make or upload it again. If a page or an extension is meant, reload."
	case fasthttp.StatusConflict:
		return "A file of that name is there already: save under another name."
	case fasthttp.StatusForbidden, fasthttp.StatusMethodNotAllowed:
		return "That is off in a workshop; nothing is broken."
	case fasthttp.StatusBadRequest:
		return "The page or program sent something that cannot be read: reload the page."
	}
	return ""
}

// promptCure takes the first error of a node that something is known about: the
// whole workflow's type only says that some node is wrong.
func promptCure(p *comfy.PromptError) string {
	known := promptCures()
	for _, n := range p.Nodes {
		for _, e := range n.Errors {
			if c := known[e.Type]; c != "" {
				return c
			}
		}
	}
	return known[p.Detail.Type]
}
