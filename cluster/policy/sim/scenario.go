// Package sim runs the policy that the agent links in virtual time: a table of
// jobs, people who queue and think, GPUs that load models and run. It promises
// that the same scenario, mode and seed give the same trace, line for line. It
// refuses to know the log, the network and real time.
package sim

import (
	"fmt"
	"math/rand/v2"

	"github.com/ahelme/comfyume/cluster"
)

// Work is a kind of job. Times are in milliseconds.
type Work struct {
	Model string
	Run   int64 // on a GPU that has the model loaded
}

// Person is somebody who queues.
type Person struct {
	Name  cluster.User
	At    int64 // when they begin, milliseconds
	Batch int   // jobs queued at a time
	Loop  bool  // they queue again, 20 to 60 s after the last of a batch is done
	Work  []Work
}

// Scenario is who does what for how long.
type Scenario struct {
	Name   string
	GPUs   int
	Swap   int64 // ms to load another model
	Length int64 // ms
	People []Person
}

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
)

// Think is how long a person who loops looks at a result, in milliseconds.
const (
	thinkLeast = 20 * second
	thinkMost  = 60 * second
)

var (
	image = Work{"image", 10 * second}
	video = Work{"video", 90 * second}
	three = []Work{{"ten", 10 * second}, {"fifteen", 15 * second}, {"forty", 40 * second}}
)

// Scenarios are those of the acceptance: one hour, two GPUs, 25 s for a swap.
func Scenarios() []Scenario {
	s1 := []Person{{Name: "A", Batch: 40, Work: []Work{video}}, {Name: "B", Batch: 40, Work: []Work{video}}}
	for i := range 17 {
		s1 = append(s1, Person{Name: user(i), Batch: 1, Loop: true, Work: []Work{image}})
	}
	s1 = append(s1, Person{Name: "L", At: 30 * minute, Batch: 40, Work: []Work{image}})
	var s2, s3 []Person
	for i := range 20 {
		s2 = append(s2, Person{Name: user(i), Batch: 1, Loop: true, Work: three[i%3 : i%3+1]})
		s3 = append(s3, Person{Name: user(i), Batch: 4, Loop: true, Work: three})
	}
	var all []Scenario
	for i, people := range [][]Person{s1, s2, s3} {
		all = append(all, Scenario{Name: fmt.Sprintf("S%d", i+1), GPUs: 2, Swap: 25 * second, Length: hour, People: people})
	}
	return all
}

func user(i int) cluster.User { return cluster.User(fmt.Sprintf("user%03d", i+1)) }

func think(r *rand.Rand) int64 { return thinkLeast + r.Int64N(thinkMost-thinkLeast+1) }
