package agent

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// reservedNames are first segments of the door's own paths: a person of such a
// name would hide that page from everybody, because /NAME/ is their ComfyUI.
func reservedNames() []string {
	return []string{
		"admin", "api", "assets", "customnode", "docs", "embeddings", "experiment", "extensions", "externalmodel", "favicon.ico", "features", "fonts", "free",
		"global_subgraphs", "health", "healthz", "history", "i18n", "index.html", "internal", "interrupt", "jobs", "login", "logout", "manager", "metrics", "models",
		"node_replacements", "object_info", "prompt", "queue", "robots.txt", "scripts", "settings", "snapshot", "system_stats", "templates", "upload", "user.css",
		"userdata", "users", "v2", "view", "view_metadata", "workflow_templates", "workshop", "ws",
	}
}

// checkName refuses names that cannot be a participant's.
func checkName(u, instructor cluster.User) error {
	switch {
	case !u.Valid():
		return cluster.Errorf(cluster.Invalid, "%q cannot be a user's name: it may have 1 to 64 letters, digits, '-', '_' or '.'", u)
	case u == instructor:
		return cluster.Errorf(cluster.Invalid, "%s is the instructor's name and a participant's: change ADMIN_USERNAME or the participant's name", u)
	case slices.Contains(reservedNames(), string(u)):
		return cluster.Errorf(cluster.Invalid, "%q cannot be a user's name: it is a page of the site", u)
	}
	return nil
}
