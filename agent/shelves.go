package agent

import (
	"context"

	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// shelf is what is served of wheels that the page can do without.
type shelf struct {
	name, flag string
	*wheels.Shelf
}

// shelve has a shelf filled in the background: the door does not wait for it.
func (a *Agent) shelve(from wheels.Source, name, flag string, list []wheels.Wheel) *wheels.Shelf {
	s := &wheels.Shelf{}
	a.roles.shelves = append(a.roles.shelves, shelf{name, flag, s})
	a.stack.run(name, func(ctx context.Context) error {
		if err := s.Fill(ctx, from, list); err != nil && ctx.Err() == nil {
			a.log.Warn(name+" are not served", "err", err)
		}
		<-ctx.Done()
		return nil
	})
	return s
}
