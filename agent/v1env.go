package agent

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/policy"
)

// V1Key says what becomes of one key of the predecessor's .env. It never holds a
// secret that is shown.
type V1Key struct {
	Key     string `json:"key"`
	Setting string `json:"setting,omitempty"` // the key of today's env file, "" = it has none
	Value   string `json:"value,omitempty"`   // for people
	GPU     bool   `json:"gpu,omitempty"`     // it belongs to the env file of GPU machines
	Command string `json:"command,omitempty"` // what sets it, if no env file does
	Account string `json:"account,omitempty"` // whose password it is
	Ignored string `json:"ignored,omitempty"` // why nothing becomes of it

	text string // of Setting, to be written
}

// V1Env is the predecessor's .env, every key of it.
type V1Env struct {
	Keys     []V1Key
	Accounts []NewUser
}

// ReadV1Env reads a .env of the predecessor. A key that is of no use is no error:
// its row says why.
func ReadV1Env(path string) (*V1Env, error) {
	file, err := readEnv(path)
	if err != nil {
		return nil, err
	}
	return mapV1Env(file, filepath.Dir(absolute(path))), nil
}

func mapV1Env(file map[string]string, dir string) *V1Env {
	m := v1Mapper{file: file, dir: dir, settings: map[string]Setting{}, names: map[cluster.User]string{}, out: &V1Env{}}
	for _, s := range Settings() {
		m.settings[s.Name], m.settings["="+s.Env] = s, s
	}
	for _, k := range keys(file) {
		row := m.row(k)
		row.Key = k
		m.out.Keys = append(m.out.Keys, row)
	}
	return m.out
}

// Used is how many keys something becomes of.
func (e *V1Env) Used() (n int) {
	for _, k := range e.Keys {
		if k.Ignored == "" {
			n++
		}
	}
	return n
}

type v1Mapper struct {
	file     map[string]string
	dir      string             // relative paths of the file begin here
	settings map[string]Setting // by name, and by "=" and key
	names    map[cluster.User]string
	out      *V1Env
}

func (m *v1Mapper) row(key string) V1Key {
	text := m.file[key]
	if text == "" {
		return V1Key{Ignored: "it has no value"}
	}
	if isParticipant(strings.TrimSuffix(key, fileSuffix)) {
		return m.account(key, text)
	}
	if s, ok := m.settings["="+key]; ok {
		return m.setting(s, key, text)
	}
	for _, r := range v1Renamed() {
		if r.key != key {
			continue
		}
		if r.needs != "" && m.file[r.needs] == "" {
			return V1Key{Ignored: fmt.Sprintf("it means nothing without %s", r.needs)}
		}
		if r.change != nil {
			text = r.change(text)
		}
		return m.setting(m.settings[r.setting], key, text)
	}
	if key == "QUEUE_MODE" {
		mode, err := policy.ParseMode(strings.ReplaceAll(strings.ToLower(text), "_", "-"))
		if err != nil {
			return V1Key{Ignored: cluster.MessageOf(err)}
		}
		return V1Key{Command: "comfyume-agent queue mode " + string(mode)}
	}
	return V1Key{Ignored: m.why(key)}
}

// setting is a key that today's table has, under the same name or another.
func (m *v1Mapper) setting(s Setting, key, text string) V1Key {
	switch s.Shape {
	case Path:
		text = m.absolute(text)
	case List:
		if s.Name == "models-dir" {
			text = m.absolute(text)
		}
	}
	v := Value{Setting: s, Text: text, Key: key}
	if err := s.check(v); err != nil {
		return V1Key{Ignored: "today's " + s.Env + " cannot be that: " + wanted(err, v)}
	}
	return V1Key{Setting: s.Env, Value: v.Shown(), GPU: s.Group == groupGPU, text: text}
}

// wanted is a check's sentence without the value that stands before it.
func wanted(err error, v Value) string {
	return strings.TrimPrefix(strings.TrimPrefix(cluster.MessageOf(err), v.Key+"="+v.Text+": "), v.Key+": ")
}

// absolute reads a path of the file as the old system did: from its own folder.
func (m *v1Mapper) absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(m.dir, path)
}

func (m *v1Mapper) account(key, text string) V1Key {
	if strings.HasSuffix(key, fileSuffix) {
		return V1Key{Ignored: "a password in a file of its own is not read: put it into the .env, or give the htpasswd file"}
	}
	all, err := participants([]Value{{Text: text, Key: key}})
	if err != nil {
		return V1Key{Ignored: cluster.MessageOf(err)}
	}
	for name, password := range all {
		if before := m.names[name]; before != "" {
			return V1Key{Ignored: fmt.Sprintf("%s stands in %s already", name, before)}
		}
		m.names[name] = key
		m.out.Accounts = append(m.out.Accounts, NewUser{Name: name, Password: string(password)})
		return V1Key{Account: string(name)}
	}
	return V1Key{Ignored: "it names nobody"}
}

// v1Rename is a key that has another name today.
type v1Rename struct {
	key, setting string
	needs        string // a key without which it means nothing
	change       func(string) string
}

func v1Renamed() []v1Rename {
	port := func(s string) string { return ":" + s }
	return []v1Rename{
		{key: "NUM_USERS", setting: "num-users"},
		{key: "USER_ID_PREFIX", setting: "user-prefix"},
		{key: "MAX_QUEUE_DEPTH", setting: "max-queue-depth"},
		{key: "LOG_LEVEL", setting: "log-level", change: v1Level},
		{key: "LOG_FORMAT", setting: "log-format"},
		{key: "NGINX_HTTPS_PORT", setting: "gateway-listen", change: port},
		{key: "NGINX_HTTP_PORT", setting: "redirect-listen", change: port, needs: "SSL_CERT_PATH"},
		{key: "WORKFLOWS_PATH", setting: "templates"},
		{key: "MODELS_PATH", setting: "models-dir"},
		{key: "COMFYUI_VERSION", setting: "comfyui-version"},
		{key: "COMFYUI_PORT", setting: "comfyui-port"},
		{key: "COMFYUI_URL", setting: "comfyui-url"},
		{key: "NUM_WORKERS", setting: "workers-per-gpu"},
	}
}

// v1Level is a level of Python's as ours.
func v1Level(s string) string {
	s = strings.ToLower(s)
	switch s {
	case "warning":
		return "warn"
	case "critical", "fatal":
		return "error"
	}
	return s
}

// why is the reason for which nothing becomes of a key.
func (m *v1Mapper) why(key string) string {
	if strings.HasPrefix(key, envPrefix) {
		var known []string
		for _, s := range Settings() {
			known = append(known, s.Env)
		}
		return "no setting is called so: did you mean " + nearest(key, known) + "?"
	}
	for _, r := range v1Dropped() {
		for _, k := range r.keys {
			if prefix, family := strings.CutSuffix(k, "*"); k == key || family && strings.HasPrefix(key, prefix) {
				return r.why
			}
		}
	}
	return "neither the old system nor this one has a setting of that name"
}

type v1Reason struct {
	keys []string // "NAME", or "BEGINNING*"
	why  string
}

// v1Dropped are the old system's keys that have no place here, with the reason.
func v1Dropped() []v1Reason {
	return []v1Reason{
		{[]string{"REDIS_*", "APP_SERVER_REDIS_*", "INFERENCE_SERVER_REDIS_*"}, "there is no Redis any more: the queue stands in the replicated log"},
		{[]string{"QUEUE_MANAGER_*"}, "there is no queue manager any more: the nodes find their leader"},
		{[]string{formatKey}, "it says how the other keys are written; taken for an account it would let anybody in"},
		{[]string{"OUTPUTS_PATH"}, "files are brought over by this command: --outputs=FOLDER"},
		{[]string{"INPUTS_PATH"}, "files are brought over by this command: --inputs=FOLDER"},
		{[]string{"JOB_TIMEOUT", "COMFYUI_TIMEOUT", "HTTP_CLIENT_TIMEOUT"}, "a job has no longest time any more: one that shows no progress is taken away, see --no-progress"},
		{[]string{"ENABLE_PRIORITY"}, "every mode of the queue knows priorities"},
		{[]string{"SERVER_MODE", "INFERENCE_MODE", "INFERENCE_PROVIDER", "COMFYUI_MODE"}, "what a node does is said by --roles"},
		{[]string{"USE_HOST_NGINX"}, "there is no nginx any more: the gateway is the door"},
		{[]string{"NGINX_CLIENT_MAX_BODY_SIZE"}, "uploads may have 10 GB without a setting"},
		{[]string{"ADMIN_PORT"}, "the dashboard has no port of its own: it is at /admin/ of the door"},
		{[]string{"DEBUG", "VERBOSE_LOGS", "QM_LOG_LEVEL"}, "what is logged is said by COMFYUME_LOG_LEVEL alone"},
		{[]string{"SERVERLESS_*"}, "a serverless container runs this agent itself: deploy/guide/gpu.md"},
		{[]string{"R2_*"}, "backups are set up anew: deploy/guide/backup.md"},
		{[]string{"HF_TOKEN", "HF_HOME", "NTFY_TOPIC"}, "this version has no setting for it"},
		{[]string{"WORKER_*", "LOCAL_GPU_DEVICE"}, "the agent of a GPU machine looks after its workers itself: deploy/guide/gpu.md"},
		{[]string{"ENABLE_VRAM_MONITORING", "VRAM_*"}, "a GPU's memory is watched without a setting"},
		{[]string{"ENV_VERSION", "ENV_DATE", "ENV_FILE_PATH", "PROJECT_NAME"}, "it only described the old installation"},
	}
}

// EnvFile is what belongs into this node's env file; what belongs to GPU machines
// stands in it as comments. It holds secrets.
func (e *V1Env) EnvFile() ([]byte, error) {
	rows := slices.DeleteFunc(slices.Clone(e.Keys), func(k V1Key) bool { return k.Setting == "" })
	slices.SortStableFunc(rows, func(a, b V1Key) int {
		return cmp.Or(cmp.Compare(btoi(a.GPU), btoi(b.GPU)), cmp.Compare(a.Setting, b.Setting))
	})
	var out bytes.Buffer
	out.WriteString("# Settings of the old .env, by comfyume-agent import v1. Keep this file secret.\n# Start the agent with --env-file and this file's name.\n")
	gpu := false
	for _, k := range rows {
		if strings.ContainsAny(k.text, "'\n\r") || strings.HasSuffix(k.text, `\`) {
			return nil, cluster.Errorf(cluster.Invalid, "%s has a quotation mark, a line break or a backslash at its end and is not written into a file: enter %s by hand", k.Key, k.Setting)
		}
		if k.GPU && !gpu {
			gpu = true
			out.WriteString("# On GPU machines:\n")
		}
		if k.GPU {
			out.WriteString("# ")
		}
		fmt.Fprintf(&out, "%s='%s'\n", k.Setting, k.text)
	}
	return out.Bytes(), nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
