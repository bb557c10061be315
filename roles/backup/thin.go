package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// How many backups are kept: all of two hours, then one an hour for two days,
// then one a day for ninety. Files are never deleted.
var kept = []struct{ age, every time.Duration }{
	{2 * time.Hour, 0},
	{48 * time.Hour, time.Hour},
	{90 * 24 * time.Hour, 24 * time.Hour},
}

// Thin forgets the backups that are not kept, and their tables. The newest, and
// the newest one that is whole, are always kept.
func (d *Dir) Thin(now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, err := d.List()
	if err != nil {
		return err
	}
	keep, whole := map[string]bool{}, false
	used := map[string]bool{} // tables
	last := map[int]time.Time{}
	for i, m := range all {
		take := i == 0 || !whole && len(m.Missing) == 0
		whole = whole || len(m.Missing) == 0
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
			used[m.Table.File] = true
		}
	}
	for i := range all {
		m := &all[i]
		if keep[m.Name] {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(d.path, manifests, m.Name+".json")))
		if !used[m.Table.File] {
			err = errors.Join(err, os.Remove(d.tablePath(m)))
			used[m.Table.File] = true // another of these may have had it too
		}
	}
	if err != nil {
		return fmt.Errorf("thin out the backups: %w", err)
	}
	return nil
}
