package people

import "github.com/ahelme/comfyume/cluster"

// Digest adds every row to d.
func (t *Table) Digest(d *cluster.Digest) {
	for _, p := range t.rows {
		d.Row("person").Text(string(p.Name)).Text(p.Hash).Bool(p.Disabled).Int(p.Created).Int(p.Changed).Int(p.Visited)
	}
	t.digestPasses(d)
}
