//go:build comfyume_nextlevel

package state

import "github.com/ahelme/comfyume/cluster"

// This file makes a build of the next level, with one command more, for
// proving that nodes can be upgraded one by one. It is in no release.

// Level of this build.
const Level = baseLevel + 1

// KindRemark is the kind of the next level.
const KindRemark cluster.Kind = 99

// Remark writes an audit line.
type Remark struct {
	Text string `cbor:"1,keyasint"`
}

// Kind of Remark.
func (Remark) Kind() cluster.Kind { return KindRemark }

func sinceNext(k cluster.Kind) uint32 {
	if k == KindRemark {
		return Level
	}
	return 1
}

func nextCommands() []cluster.Command { return []cluster.Command{&Remark{}} }

func (m *Machine) planNext(cluster.Command) (func() any, error) {
	return func() any { return nil }, nil
}

func describeNext(cmd cluster.Command) string {
	if r, ok := cmd.(*Remark); ok {
		return r.Text
	}
	return ""
}
