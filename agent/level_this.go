//go:build !comfyume_nextlevel

package agent

import "context"

// raised is called on the leader when the workshop has agreed on a level. This
// release has nothing to do then.
func (m *membership) raised(context.Context) error { return nil }
