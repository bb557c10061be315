package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/roles/backup"
)

// Shape says how a setting's text is read.
type Shape string

// The shapes.
const (
	Text     Shape = "text"
	Path     Shape = "path"     // made absolute
	Switch   Shape = "switch"   // true or false; a flag without a value is true
	Number   Shape = "number"   // a whole number, not negative
	Duration Shape = "duration" // 30s, 2m
	Size     Shape = "size"     // 64MiB, 10GB
	List     Shape = "list"     // separated by commas; the flag may be repeated
)

// Setting is one row of the table: a flag, an environment key, a default and a
// sentence. Everything about it (parsing, usage, `config show`) comes from here.
type Setting struct {
	Name    string   // the flag without its dashes
	Env     string   // the environment key
	Shape   Shape    //
	Default string   // as text; "" = nothing
	Help    string   // one sentence
	Group   string   // heading in the usage
	Secret  bool     // never a flag, never shown; also read from the file that Env_FILE names
	Words   []string // the only allowed texts, if not empty
}

// The groups, in the order of the usage.
const (
	groupNode     = "This node"
	groupSwarm    = "The other nodes"
	groupDoor     = "The door (gateway)"
	groupPeople   = "People"
	groupFrontend = "ComfyUI frontend and templates"
	groupGPU      = "GPU"
	groupKeep     = "Backups"
	groupLog      = "Logs"
)

// envPrefix begins every key of ours but the old names; a key that begins so
// and is not in the table is an error.
const envPrefix = "COMFYUME_"

// Settings is the one table. Keys of participants (USER_CREDENTIALS_USERnnn)
// are a family and stand in values.go.
func Settings() []Setting {
	rows := []Setting{
		{Name: "roles", Shape: List, Group: groupNode, Help: "What this node does: gateway, queue, gpu, separated by commas. With --dev: all three."},
		{Name: "dev", Shape: Switch, Default: "false", Group: groupNode, Help: "A whole workshop on this machine alone: no other nodes, and sketch (a small ComfyUI on the CPU) unless --comfyui-url names a real one."},
		{Name: "state-dir", Shape: Path, Default: DefaultStateDir(), Group: groupNode, Help: "Folder of everything that must survive a restart. One agent per folder."},
		{Name: "hostname", Shape: Text, Group: groupNode, Help: "Name of this node on pages. Default: the machine's own."},
		{Name: "site-listen", Shape: Text, Default: "127.0.0.1:7180", Group: groupNode, Help: "Where this node's own site listens; the next free port when the default is taken."},
		{Name: "keep", Shape: List, Group: groupKeep, Help: "Where backups of the whole workshop go: dir:/mnt/backup (a folder on another disk or machine), s3:https://ACCOUNT.eu.r2.cloudflarestorage.com/BUCKET, or several. Prepare them once: comfyume-agent backup init."},
		{Name: "keep-every", Shape: Duration, Default: "5m", Group: groupKeep, Help: "How often a backup is made when something has changed."},
		{Name: "keep-key-id", Env: "R2_ACCESS_KEY_ID", Shape: Text, Secret: true, Group: groupKeep, Help: "Access key of the buckets."},
		{Name: "keep-key-secret", Env: "R2_SECRET_ACCESS_KEY", Shape: Text, Secret: true, Group: groupKeep, Help: "Secret of that key."},
		{Name: "keep-ca", Shape: Path, Group: groupKeep, Help: "PEM file with the authority behind an S3 server's certificate, if the system does not know it."},
		{Name: "keep-legacy", Shape: List, Default: strings.Join(backup.LegacyBuckets(), ","), Group: groupKeep, Help: "Buckets that are kept as they are and never written to."},
		{Name: "drill-every", Shape: Duration, Default: "24h", Group: groupKeep, Help: "How often a restore is proven by doing it into an empty folder; needs the recovery key."},
		{Name: "recovery-key", Shape: Text, Secret: true, Group: groupKeep, Help: "Key of the recovery kit, for drills on schedule and for a restore."},
		{Name: "retain-outputs", Shape: Duration, Group: groupNode, Help: "On gateway nodes: how long results are kept, e.g. 720h. Default: for ever. Say the same on all of them."},
		{Name: "retain-temp", Shape: Duration, Default: "24h", Group: groupNode, Help: "On gateway nodes: how long previews and other temporary pictures are kept."},
		{Name: "retain-trash", Shape: Duration, Default: "24h", Group: groupNode, Help: "On gateway nodes: how long bytes that nothing names any more lie in the trash before they are gone."},
		{Name: "retain-damaged", Shape: Duration, Default: "720h", Group: groupNode, Help: "On gateway nodes: how long a damaged file that is here whole again stays set aside."},
		{Name: "grace", Shape: Duration, Default: "30s", Group: groupNode, Help: "How long stopping may take."},
		{Name: "env-file", Shape: Path, Group: groupNode, Help: "File of KEY=value lines. The environment wins over it. Keys of other software in it are ignored."},

		{Name: "network", Shape: Text, Default: netTailnet, Words: []string{netTailnet, netLoopback}, Group: groupSwarm, Help: "How the nodes reach each other: tailnet, or loopback for several agents on one machine. With --dev there are no others."},
		{Name: "loopback-dir", Shape: Path, Default: DefaultHall(), Group: groupSwarm, Help: "With --network=loopback: the folder in which the agents of one workshop on this machine find each other."},
		{Name: "voter", Shape: Text, Default: "auto", Words: []string{"auto", "always", "never"}, Group: groupSwarm, Help: "Whether this node may vote for the leader: auto (a steady Linux machine that runs no GPU jobs), always or never. Only nodes with the role queue vote."},
		{Name: "form", Shape: Switch, Default: "false", Group: groupSwarm, Help: "Form the workshop now although a node that may hold it does not answer. Only for the first start, and only if you know that it holds nothing."},
		{Name: "raft-profile", Shape: Text, Default: "wan", Words: []string{"wan", "site"}, Group: groupSwarm, Help: "How soon a leader counts as lost: wan (1 s) or site (0.5 s, for machines that stand together). The same on every node."},
		{Name: "control-url", Shape: Text, Group: groupSwarm, Help: "Address of the tailnet's coordination server, if it is not Tailscale's own."},
		{Name: "admin-login", Shape: List, Group: groupSwarm, Help: "Tailnet sign-in names whose owners may use the dashboard on the node's tailnet address, e.g. me@example.com."},
		{Name: "ts-authkey", Shape: Text, Secret: true, Group: groupSwarm, Help: "Key with which this node joins the tailnet. Without one a link to open is printed."},
		{Name: "ts-client-secret", Shape: Text, Secret: true, Group: groupSwarm, Help: "OAuth client secret of the tailnet: joins this node, and mints keys for node invite."},

		{Name: "gateway-listen", Shape: Text, Default: ":443", Group: groupDoor, Help: "Where participants' browsers come in. With --dev the default is " + devGatewayListen + "."},
		{Name: "domain", Env: "DOMAIN", Shape: Text, Group: groupDoor, Help: "Name under which browsers reach the door, e.g. comfy.example.net: the certificate must be for it, and sign-in links begin with it."},
		{Name: "tls-cert", Env: "SSL_CERT_PATH", Shape: Path, Group: groupDoor, Help: "PEM file of the door's certificate with its chain. It and the key are read again when they change. Without one the door speaks plain HTTP."},
		{Name: "tls-key", Env: "SSL_KEY_PATH", Shape: Path, Group: groupDoor, Help: "PEM file of the certificate's private key."},
		{Name: "redirect-listen", Shape: Text, Group: groupDoor, Help: "Where browsers that come over plain HTTP are sent on to the door; off = nowhere. Default: " + defaultRedirect + " if the door has a certificate and listens on port 443."},
		{Name: "max-queue-depth", Shape: Number, Default: "2000", Group: groupDoor, Help: "Waiting jobs over which a new one is refused; 0 = no limit."},
		{Name: "max-body", Shape: Size, Default: "64MiB", Group: groupDoor, Help: "Largest request body, uploads apart."},

		{Name: "num-users", Shape: Number, Default: "20", Group: groupPeople, Help: "How many accounts are made when none are given."},
		{Name: "user-prefix", Shape: Text, Default: "user", Group: groupPeople, Help: "Made accounts are called PREFIX001, PREFIX002 and so on."},
		{Name: "htpasswd", Shape: Path, Group: groupPeople, Help: "File of NAME:HASH lines (bcrypt, apr1 or {SHA}) with the participants."},
		{Name: "admin-username", Env: "ADMIN_USERNAME", Shape: Text, Default: "admin", Group: groupPeople, Help: "The instructor's sign-in name."},
		{Name: "admin-password", Env: "ADMIN_PASSWORD", Shape: Text, Secret: true, Group: groupPeople, Help: "The instructor's password. Default: made once and kept in the state folder."},

		{Name: "frontend-version", Shape: Text, Default: "1.37.11", Group: groupFrontend, Help: "Version of the stock ComfyUI frontend that participants get."},
		{Name: "frontend-wheel", Shape: Path, Group: groupFrontend, Help: "Local file of the frontend's Python wheel; nothing is fetched then."},
		{Name: "wheel-dir", Shape: Path, Group: groupFrontend, Help: "Folder in which wheels are looked for before any is fetched; the binary's own folder and its wheels/ are looked in as well."},
		{Name: "frontend-sha256", Shape: Text, Group: groupFrontend, Help: "Digest that the wheel must have. Default: the one known for this version; other versions need it."},
		{Name: "package-index", Shape: Text, Group: groupFrontend, Help: "Address of a Python package index (simple API) to fetch the wheel from. Default: the machine's own pip is asked."},
		{Name: "templates", Shape: Path, Group: groupFrontend, Help: "Folder of workshop workflows (*.json) that every participant sees."},
		{Name: "node-docs", Shape: Switch, Default: "true", Group: groupFrontend, Help: "Serve ComfyUI's own pages about its nodes (9.6 MB, fetched in the background like the frontend's wheel)."},
		{Name: "official-templates", Shape: Switch, Default: "false", Group: groupFrontend, Help: "Also serve ComfyUI's own templates with their pictures (185 MB, fetched likewise). The workshop's own stay first."},
		{Name: "node-web", Shape: List, Group: groupFrontend, Help: "Packs of custom nodes (their folder names) whose scripts run in every participant's page; * = all that the workers have. Default: none."},
		{Name: "default-template", Shape: Text, Group: groupFrontend, Help: "The workflow that opens on a participant's first visit."},

		{Name: "comfyui-url", Shape: List, Group: groupGPU, Help: "Address of a running ComfyUI, e.g. http://127.0.0.1:8188; several by commas or by repeating the flag; sketch stands for our own small one on the CPU."},
		{Name: "comfyui-dir", Shape: Path, Group: groupGPU, Help: "Folder of a ComfyUI (with its main.py) to start here: one process per GPU, looked after by the agent, reached from this machine only."},
		{Name: "workers-per-gpu", Shape: Number, Default: "1", Group: groupGPU, Help: "How many ComfyUI processes share a GPU, 1 to 3."},
		{Name: "comfyui-port", Shape: Number, Default: "8188", Group: groupGPU, Help: "Port of the first ComfyUI that is started; the others take the next free ones."},
		{Name: "comfyui-python", Shape: Text, Group: groupGPU, Help: "Python that runs ComfyUI. Default: .venv or venv in its folder, else python3."},
		{Name: "comfyui-args", Shape: Text, Group: groupGPU, Help: "More arguments for ComfyUI, separated by spaces, e.g. --comfyui-args=\"--cpu --lowvram\"."},
		{Name: "comfyui-user", Shape: Text, Group: groupGPU, Help: "OS user that runs ComfyUI. Default: the agent's own; for root comfyui if there is one, else nobody."},
		{Name: "comfyui-version", Shape: Text, Group: groupGPU, Help: "Version that ComfyUI must be of: a worker of another one takes no jobs. Default: any."},
		{Name: "models-dir", Shape: List, Group: groupGPU, Help: "Folders with models (checkpoints/, loras/ and so on) for the ComfyUIs that are started, separated by commas."},
		{Name: "gpu-price", Shape: Text, Group: groupGPU, Help: "What this machine costs an hour, with its currency, e.g. --gpu-price=\"0.70 EUR\"."},
		{Name: "idle-after", Shape: Duration, Default: "30m", Group: groupGPU, Help: "After so long without a job a machine with a price is called idle, and --idle-hook runs."},
		{Name: "idle-hook", Shape: Text, Group: groupGPU, Help: "Command (sh -c) for an idle machine, e.g. \"shutdown -h now\". Nothing is ever ended or deleted without one."},
		{Name: "dead-man-after", Shape: Duration, Default: "15m", Group: groupGPU, Help: "After so long without word of the workshop --dead-man-hook runs."},
		{Name: "dead-man-hook", Shape: Text, Group: groupGPU, Help: "Command (sh -c) for a machine that has lost the workshop."},
		{Name: "spot-notice", Shape: Text, Group: groupGPU, Help: "Where the provider says that it takes the machine back: a file that appears, or an address that answers 200. Then its jobs go back to the queue at once."},
		{Name: "probe-listen", Shape: Text, Group: groupGPU, Help: "In a serverless container: where the platform's probe is answered (GET /), and where a request stays open while this replica works (POST /work)."},
		{Name: "wake", Shape: Text, Group: groupGPU, Help: "On a queue node: address of a serverless platform's /work, which is kept open once per wanted replica while jobs are there, or a command that starts COMFYUME_REPLICAS machines."},
		{Name: "wake-replicas", Shape: Number, Default: "1", Group: groupGPU, Help: "How many replicas --wake asks for at most."},
		{Name: "wake-token", Shape: Text, Secret: true, Group: groupGPU, Help: "Key that the platform asks for, sent as a Bearer."},
		{Name: "no-progress", Shape: Duration, Default: "10m", Group: groupGPU, Help: "How long a running job may show no progress before it is taken away and ComfyUI restarted; four times as long while it is seen working."},

		{Name: "log-level", Shape: Text, Default: "info", Words: []string{"debug", "info", "warn", "error"}, Group: groupLog, Help: "The least that is logged: debug, info, warn or error."},
		{Name: "log-format", Shape: Text, Default: "auto", Words: []string{"auto", "text", "json"}, Group: groupLog, Help: "auto (colour on a terminal, JSON elsewhere), text or json."},
	}
	for i := range rows {
		if rows[i].Env == "" {
			rows[i].Env = envPrefix + strings.ToUpper(strings.ReplaceAll(rows[i].Name, "-", "_"))
		}
	}
	return rows
}

// The defaults that --dev changes.
const (
	devGatewayListen = "127.0.0.1:8800"
	devRoles         = "queue,gateway,gpu"
)

// The networks.
const (
	netTailnet  = "tailnet"
	netLoopback = "loopback"
)

// DefaultHall is where the agents of one user on one machine find each other.
func DefaultHall() string {
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "comfyume")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("comfyume-%d", os.Getuid()))
}

// DefaultStateDir is where the state is kept when nobody says: the folder that
// systemd made for us, the system's for root, else the user's own.
func DefaultStateDir() string {
	if d := os.Getenv("STATE_DIRECTORY"); filepath.IsAbs(d) && !strings.Contains(d, ":") {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/comfyume"
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "comfyume")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "comfyume-state"
	}
	return filepath.Join(home, ".local", "state", "comfyume")
}

// nearest is the word of all with the fewest edits to w.
func nearest(w string, all []string) string {
	best, found := len(w)+1, ""
	for _, a := range all {
		if d := edits(w, a); d < best {
			best, found = d, a
		}
	}
	return found
}

// edits is the Levenshtein distance of two ASCII words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
