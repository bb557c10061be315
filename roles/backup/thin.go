package backup

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// How many backups are kept: all of two hours, then one an hour for two days,
// then one a day for ninety. Files are never deleted.
var kept = []struct{ age, every time.Duration }{
	{2 * time.Hour, 0},
	{48 * time.Hour, time.Hour},
	{90 * 24 * time.Hour, 24 * time.Hour},
}

// Thin forgets the backups that are not kept, and what only they had encrypted. The
// newest, and the newest one that is whole, are always kept.
func (v *Vault) Thin(ctx context.Context, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	all, err := v.List(ctx)
	if err != nil {
		return err
	}
	keep, whole := map[string]bool{}, false
	used := map[string]bool{} // encrypted objects
	last := map[int]time.Time{}
	for i, m := range all {
		take := i == 0 || !whole && m.Missing == 0
		whole = whole || m.Missing == 0
		for k, rule := range kept {
			if now.Sub(m.Made) > rule.age {
				continue
			}
			if slot := m.Made.Truncate(max(rule.every, time.Nanosecond)); !slot.Equal(last[k]) {
				last[k], take = slot, true
			}
			break
		}
		if keep[m.Name] = take; take {
			for _, name := range m.encrypted {
				used[name] = true
			}
		}
	}
	for i := range all {
		m := &all[i]
		if keep[m.Name] {
			continue
		}
		err = errors.Join(err, v.shelf.Remove(ctx, manifests+m.Name+".json"))
		v.read.Lock()
		delete(v.read.heads, m.Name)
		v.read.Unlock()
		for _, name := range m.encrypted {
			if !used[name] {
				err = errors.Join(err, v.shelf.Remove(ctx, name))
			}
		}
	}
	if err != nil {
		return fmt.Errorf("thin out the backups: %w", err)
	}
	return nil
}
