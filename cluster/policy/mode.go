package policy

import (
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// Mode is the rule by which waiting jobs are ordered. In every mode the jobs
// that the instructor put to the very front go first, by their place.
type Mode string

// The modes.
const (
	FIFO       Mode = "fifo"        // by place in the queue
	RoundRobin Mode = "round-robin" // the user with the fewest running and served in the last hour, then as Priority
	Priority   Mode = "priority"    // instructor, high, normal, low, then by place
	Fair       Mode = "fair"        // the user who has had the least GPU time, with a preference for loaded models
)

// Default is the mode of a workshop in which none was chosen.
const Default = Fair

// Modes lists the modes that can be chosen.
func Modes() []Mode { return []Mode{Fair, FIFO, RoundRobin, Priority} }

// ParseMode reads a mode's name, also as the predecessor wrote it (round_robin).
// One that cannot be chosen is Invalid.
func ParseMode(s string) (Mode, error) {
	m := Mode(strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "_", "-"))
	if slices.Contains(Modes(), m) {
		return m, nil
	}
	return "", cluster.Errorf(cluster.Invalid, "There is no queue mode %q. Use %s.", s, choice())
}

// choice is "fifo, round-robin or priority".
func choice() string {
	var names []string
	for _, m := range Modes() {
		names = append(names, string(m))
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
