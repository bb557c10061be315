package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ahelme/comfyume/agent"
)

// v1Found is a file of the old tree that shall be taken.
type v1Found struct {
	agent.V1File
	source string // as people know it: FOLDER/userNNN/...
	root   *os.Root
	rel    string // below root
}

// v1Tree walks the folders of the old workshop. Nothing outside of them is read:
// links are followed inside a person's folder alone. Everything that it meets is
// either found or told to report.
type v1Tree struct {
	people map[agent.User]bool
	report *v1Report
	found  []v1Found
	roots  []*os.Root
}

// v1Place says what becomes of a path below a person's folder: its area and its
// path there, or why it is not taken. A folder is entered when neither is set.
type v1Place func(rel string, folder bool) (area, at, why string)

func (w *v1Tree) close() {
	for _, r := range w.roots {
		_ = r.Close() // only read
	}
}

// v1Area is one of the old folders.
type v1Area struct {
	dir   string
	loose bool // it may have nothing but files that are nobody's
	whole bool // all folders of a person are walked, so what a link leads to is met anyway
	place v1Place
}

// folder walks DIR/userNNN/ of every person.
func (w *v1Tree) folder(a v1Area) error {
	dir := a.dir
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &exit{exitUsage, fmt.Sprintf("%s cannot be read: %v", dir, errors.Unwrap(err))}
	}
	w.roots = append(w.roots, root)
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return &exit{exitUsage, fmt.Sprintf("%s cannot be read: %v", dir, err)}
	}
	persons, strays := 0, 0
	for _, e := range entries {
		name, source := e.Name(), path.Join(filepath.Base(dir), e.Name())
		info, err := root.Stat(name)
		mine := w.people[agent.User(name)] || oldID.MatchString(name)
		switch {
		case hidden(name):
			w.leave(root, name, source, "hidden")
		case err != nil && mine:
			w.report.miss(source, "a link that leads out of the folder, or nowhere: name the folder that it leads to")
		case err != nil:
			w.report.ignore(source, 1, linkOr(e, err))
		case !info.IsDir():
			strays++
			w.report.ignore(source, 1, "it lies in no person's folder, so nobody knows whose it is: move it into "+filepath.Base(dir)+"/USER/ and import again")
		case mine:
			persons++
			w.person(root, name, source, a)
		default:
			w.leave(root, name, source, "nobody has that name; if it is somebody's: comfyume-agent user add "+name)
		}
	}
	// The old system's uploads lay without folders: that is no sign of a wrong one.
	if persons == 0 && (strays == 0 || !a.loose) {
		w.report.miss(dir, "it has no folder of a person, such as user001: name the folder that has them, and see that it is mounted")
	}
	return nil
}

// oldID is a name as the old installation gave them.
var oldID = regexp.MustCompile(`^[A-Za-z][A-Za-z_.-]*\d{3,}$`)

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// linkOr is why something cannot be looked at.
func linkOr(e fs.DirEntry, err error) string {
	if e.Type()&fs.ModeSymlink != 0 {
		return "a link that leads out of the folder, or nowhere"
	}
	return "it cannot be read: " + why(err)
}

func why(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func (w *v1Tree) person(top *os.Root, name, source string, a v1Area) {
	root, err := top.OpenRoot(name)
	if err != nil {
		w.report.miss(source, "it cannot be read: "+why(err))
		return
	}
	w.roots = append(w.roots, root)
	user := agent.User(name)
	err = fs.WalkDir(root.FS(), ".", func(rel string, e fs.DirEntry, err error) error {
		at := path.Join(source, rel)
		switch {
		case err != nil: // of a folder that cannot be read
			w.report.miss(at, "it cannot be read: "+why(err))
			return nil
		case rel == ".":
			return nil
		}
		area, target, reason := a.place(rel, e.IsDir())
		if e.Type()&fs.ModeSymlink != 0 {
			if info, err := root.Stat(rel); err == nil && info.IsDir() {
				w.link(rel, at, a)
				return nil
			}
		}
		if reason != "" {
			w.leave(root, rel, at, reason)
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !e.IsDir() {
			w.file(root, user, e, v1Found{V1File: agent.V1File{User: user, Area: area, Path: target}, source: at, root: root, rel: rel})
		}
		return nil
	})
	if err != nil {
		w.report.miss(source, "it cannot be read: "+why(err))
	}
}

// link tells of a link to a folder, which is not followed.
func (w *v1Tree) link(rel, source string, a v1Area) {
	switch _, _, reason := a.place(rel, true); {
	case reason != "":
		w.report.ignore(source, 1, reason)
	case a.whole:
		w.report.ignore(source, 1, "a link to a folder: what it leads to is taken where it stands")
	default:
		w.report.miss(source, "a link to a folder, which is not followed: put the folder itself there")
	}
}

// file notes a file that has its place, if it is one that can be read.
func (w *v1Tree) file(root *os.Root, user agent.User, e fs.DirEntry, f v1Found) {
	info, err := root.Stat(f.rel)
	switch {
	case err != nil && e.Type()&fs.ModeSymlink != 0:
		w.report.ignore(f.source, 1, linkOr(e, err))
	case err != nil:
		w.report.miss(f.source, "it cannot be read: "+why(err))
	case !info.Mode().IsRegular():
		w.report.ignore(f.source, 1, "it is no file")
	case !utf8.ValidString(f.rel):
		w.report.miss(f.source, "its name is not UTF-8: rename it")
	case !w.people[user]:
		w.report.miss(f.source, fmt.Sprintf("there is no user %s: comfyume-agent user add %s, then import again", user, user))
	default:
		f.Size, f.Made = info.Size(), info.ModTime().UnixMilli()
		w.found = append(w.found, f)
	}
}

// leave tells of something that is not taken; of a folder with how many files.
func (w *v1Tree) leave(root *os.Root, rel, source, reason string) {
	info, err := root.Lstat(rel)
	if err != nil || !info.IsDir() {
		w.report.ignore(source, 1, reason)
		return
	}
	n := 0
	err = fs.WalkDir(root.FS(), rel, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return nil // what cannot be read is not taken either way
	})
	if err != nil {
		reason += " (not all of it can be read)"
	}
	w.report.ignore(source+"/", n, reason)
}

// digest reads a file once for its sha256 and its true size.
func (f *v1Found) digest() error {
	r, err := f.root.Open(f.rel)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	if f.Size, err = io.Copy(sum, r); err != nil {
		return err
	}
	f.Ref = agent.Ref(hex.EncodeToString(sum.Sum(nil)))
	return nil
}

// userdata is the place of what lies in user_data/userNNN. ComfyUI's own folder is
// default/ in it, and was the folder itself in older versions.
func userdata(rel string, folder bool) (area, at, why string) {
	at = rel
	for _, own := range []string{"user", "default"} {
		if at == own && folder {
			return "", "", ""
		}
		at = strings.TrimPrefix(at, own+"/")
	}
	top, _, _ := strings.Cut(at, "/")
	name := path.Base(at)
	switch {
	case name == ".index.json":
		return "", "", "the old system's own list of workflows, which nothing reads"
	case hidden(name):
		return "", "", "hidden"
	case at == "custom_nodes":
		return "", "", "custom nodes are not taken: they run on GPU machines here, install the packs there (deploy/guide/gpu.md)"
	case top == "workflows" || top == "subgraphs":
		switch {
		case folder:
			return "", "", ""
		case path.Ext(name) != ".json":
			return "", "", "it is no workflow (.json)"
		}
		return agent.V1Document, at, ""
	case folder:
		return "", "", "nothing here reads it"
	case at == "comfy.settings.json":
		return agent.V1Settings, at, ""
	case at == "user.css":
		return agent.V1Document, at, ""
	case at == "comfy.templates.json":
		return "", "", "the old system's own list of templates, which nothing reads"
	case strings.HasPrefix(name, "comfyui.db"):
		return "", "", "ComfyUI's own database, which holds nothing of the person's"
	}
	return "", "", "nothing here reads it"
}

// media is the place of what lies in outputs/userNNN or inputs/userNNN.
func media(area string) v1Place {
	return func(rel string, folder bool) (string, string, string) {
		name := path.Base(rel)
		switch {
		case hidden(name):
			return "", "", "hidden"
		case folder && name == "thumbnails":
			return "", "", "small copies, which are made anew"
		case slices.Contains([]string{"Thumbs.db", "desktop.ini"}, name):
			return "", "", "an operating system's own file"
		case folder:
			return "", "", ""
		}
		return area, rel, ""
	}
}
