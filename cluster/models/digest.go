package models

import "github.com/ahelme/comfyume/cluster"

// Digest adds every row to d.
func (t *Table) Digest(d *cluster.Digest) {
	for _, w := range t.rows {
		d.Row("worker").Text(string(w.ID)).Text(string(w.Node)).Text(w.Version).Text(w.Device).Int(w.VRAM).Text(string(w.Caps)).Int(w.CapsSize).Int(w.Changed)
	}
}
