package consensus

import "testing"

// LeaveHalfDone makes a stopped log's folder look as if its process had been
// killed right after it wrote down what it was about to do.
func LeaveHalfDone(t *testing.T, dir, what string) {
	t.Helper()
	who, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	who.Pending = what
	if what == pendingAside {
		who.Incarnation, who.Aside = randomName(8), "20261128T000000Z-aa"
	}
	who.Generation.Number++
	if err := who.write(dir); err != nil {
		t.Fatal(err)
	}
}
