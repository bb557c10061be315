package files

import (
	"github.com/ahelme/comfyume/cluster"
)

// Plan checks a command without touching the table and returns the change to
// make, which cannot fail. user is whose rows move; now is the entry's time in
// milliseconds. A command of another table gives nil.
func (t *Table) Plan(cmd cluster.Command, now int64) (mutate func() any, user cluster.User, err error) {
	switch c := cmd.(type) {
	case *PutDoc:
		mutate, err = t.putDoc(c, now)
		return mutate, c.User, err
	case *DeleteDoc:
		mutate, err = t.deleteDoc(c, now)
		return mutate, c.User, err
	case *MoveDoc:
		mutate, err = t.moveDoc(c, now)
		return mutate, c.User, err
	case *PutSettings:
		mutate, err = t.putSettings(c)
		return mutate, c.User, err
	case *PutInput:
		mutate, err = t.putInput(c, now)
		return mutate, c.User, err
	case *PutOutputs:
		mutate, err = t.putOutputs(c, now)
		return mutate, c.User, err
	case *Adopt:
		mutate, err = t.adopt(c)
		return mutate, c.User, err
	case *Remove:
		mutate, err = t.remove(c)
		return mutate, c.User, err
	case *Expire:
		mutate, err = t.expire(c)
		return mutate, c.User, err
	}
	return nil, "", nil
}

func checkPath(u cluster.User, path string) error {
	if !u.Valid() {
		return cluster.Errorf(cluster.Invalid, "not a user name")
	}
	clean, err := CleanPath(path)
	if err != nil {
		return err
	}
	if clean != path {
		return cluster.Errorf(cluster.Invalid, "not a usable path")
	}
	return nil
}

// live is a document that the user can see.
func (t *Table) live(u cluster.User, path string) (*Doc, bool) {
	d, ok := t.read(u).docs[path]
	return d, ok && !d.Gone
}

func (t *Table) putDoc(c *PutDoc, now int64) (func() any, error) {
	if err := checkPath(c.User, c.Path); err != nil {
		return nil, err
	}
	if len(c.Data) > MaxInline {
		return nil, cluster.Errorf(cluster.TooLarge, "a document row holds at most %d kB", MaxInline>>10)
	}
	if c.Ref != "" && !c.Ref.Valid() {
		return nil, cluster.Errorf(cluster.Invalid, "not a blob reference")
	}
	old, exists := t.live(c.User, c.Path)
	if exists && c.IfAbsent {
		return nil, cluster.Errorf(cluster.Conflict, "File already exists")
	}
	return func() any {
		d := &Doc{Path: c.Path, Data: c.Data, Ref: c.Ref, Size: c.Size, Created: now, Modified: now}
		if c.Ref == "" {
			d.Size = int64(len(c.Data))
		}
		if exists {
			d.Created = old.Created
		}
		t.home(c.User).docs[c.Path] = d
		return nil
	}, nil
}

func (t *Table) deleteDoc(c *DeleteDoc, now int64) (func() any, error) {
	if err := checkPath(c.User, c.Path); err != nil {
		return nil, err
	}
	row, had := t.read(c.User).docs[c.Path]
	_, exists := t.live(c.User, c.Path)
	if !exists && (!c.Template || had && row.Gone) {
		return nil, cluster.Errorf(cluster.NotFound, "no such file")
	}
	return func() any { t.drop(c.User, c.Path, c.Template, now); return nil }, nil
}

func (t *Table) drop(u cluster.User, path string, template bool, now int64) {
	h := t.home(u)
	if template {
		h.docs[path] = &Doc{Path: path, Created: now, Modified: now, Gone: true}
		return
	}
	delete(h.docs, path)
}

func (t *Table) moveDoc(c *MoveDoc, now int64) (func() any, error) {
	if err := checkPath(c.User, c.From); err != nil {
		return nil, err
	}
	if err := checkPath(c.User, c.To); err != nil {
		return nil, err
	}
	src, exists := t.live(c.User, c.From)
	row, had := t.read(c.User).docs[c.From]
	if !exists && (!c.Template || len(c.Data) == 0 || had && row.Gone) {
		return nil, cluster.Errorf(cluster.NotFound, "no such file")
	}
	if len(c.Data) > MaxInline {
		return nil, cluster.Errorf(cluster.TooLarge, "a document row holds at most %d kB", MaxInline>>10)
	}
	if _, taken := t.live(c.User, c.To); taken && !c.Overwrite {
		return nil, cluster.Errorf(cluster.Conflict, "File already exists")
	}
	return func() any {
		if c.From == c.To {
			return nil
		}
		d := Doc{Data: c.Data, Size: int64(len(c.Data)), Created: now}
		if exists {
			d = *src
		}
		d.Path, d.Modified = c.To, now
		t.home(c.User).docs[c.To] = &d
		t.drop(c.User, c.From, c.Template, now)
		return nil
	}, nil
}

// maxSetting bounds one setting's raw JSON, in bytes.
const maxSetting = 256 << 10

func (t *Table) putSettings(c *PutSettings) (func() any, error) {
	if !c.User.Valid() {
		return nil, cluster.Errorf(cluster.Invalid, "not a user name")
	}
	for _, s := range c.Settings {
		if s.Key == "" || len(s.Key) > maxName || len(s.Value) > maxSetting {
			return nil, cluster.Errorf(cluster.TooLarge, "setting %.40q is too long", s.Key)
		}
	}
	return func() any {
		h := t.home(c.User)
		for _, s := range c.Settings {
			if s.Value == nil {
				delete(h.settings, s.Key)
				continue
			}
			h.settings[s.Key] = s.Value
		}
		return nil
	}, nil
}
