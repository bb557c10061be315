package backup

import "time"

// Small sets how long a transfer may stand still, and how large parts are.
func (t Target) Small(still time.Duration, part int64) Target {
	t.still, t.part = still, part
	return t
}
