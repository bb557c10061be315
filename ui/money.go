package ui

import (
	"fmt"
	"maps"
)

// Used is what somebody's jobs have used: GPU time in milliseconds, and what
// it cost by currency, in micro-units. Machines of different owners are not
// added up over currencies.
type Used struct {
	GPU  int64            `json:"gpu"`
	Cost map[string]int64 `json:"cost,omitempty"`
}

// Add adds a job's.
func (u *Used) Add(gpu, cost int64, currency string) {
	u.GPU += gpu
	if currency == "" || cost == 0 {
		return
	}
	u.Cost = maps.Clone(u.Cost)
	if u.Cost == nil {
		u.Cost = map[string]int64{}
	}
	u.Cost[currency] += cost
}

// Money is an amount of micro-units for people: 0.70 EUR.
func Money(micro int64, currency string) string {
	return fmt.Sprintf("%d.%02d %s", micro/1_000_000, micro%1_000_000/10_000, currency)
}
