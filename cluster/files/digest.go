package files

import "github.com/ahelme/comfyume/cluster"

// Digest adds every row to d.
func (t *Table) Digest(d *cluster.Digest) {
	for u, h := range t.homes {
		user := string(u)
		d.Row("home").Text(user)
		for _, doc := range h.docs {
			d.Row("doc").Text(user).Text(doc.Path).Bytes(doc.Data).Text(string(doc.Ref)).Int(doc.Size).Int(doc.Created).Int(doc.Modified).Bool(doc.Gone)
		}
		for k, v := range h.settings {
			d.Row("setting").Text(user).Text(k).Bytes(v)
		}
		for _, f := range h.files {
			d.Row("file").Text(user)
			f.Place.digest(d)
			d.Text(string(f.Ref)).Int(f.Size).Int(f.Created).Text(f.Prompt).Text(f.Item)
		}
		for k, n := range h.counters {
			d.Row("counter").Text(user).Text(k).Int(n)
		}
		for k, p := range h.items {
			d.Row("item").Text(user).Text(k)
			p.digest(d)
		}
	}
}

func (p Place) digest(d *cluster.Digest) {
	d.Text(string(p.Area)).Text(p.Subfolder).Text(p.Name)
}
