//go:build !comfyume_nextlevel

package state

import "github.com/ahelme/comfyume/cluster"

// Level is the highest set of commands this build can apply. It rises when a
// kind or the meaning of a command changes; what may be proposed is agreed in
// the log, never by gossip.
const Level = baseLevel

func sinceNext(cluster.Kind) uint32 { return 1 }

func nextCommands() []cluster.Command { return nil }

func (m *Machine) planNext(cluster.Command) (func() any, error) { return nil, nil }

func describeNext(cluster.Command) string { return "" }
