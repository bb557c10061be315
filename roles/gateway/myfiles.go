package gateway

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

// maxPicked bounds what the page of files sends, in bytes.
const maxPicked = 1 << 20

// maxListed bounds what a page of files shows, the largest first.
const maxListed = 200

// myFile is one line of a person's page of files.
type myFile struct{ Value, Name, Kind, Size, Day, Link string }

// filesPage is GET /workshop/files: what of a person's takes the space.
func (g *Gateway) filesPage(c *call) {
	all, used := g.largest(c.user)
	var rows []myFile
	for _, f := range all[:min(len(all), maxListed)] {
		kind := "result"
		if f.Place.Area == files.Input {
			kind = "upload"
		}
		name := f.Place.Name
		if f.Place.Subfolder != "" {
			name = f.Place.Subfolder + "/" + name
		}
		link := url.Values{"filename": {f.Place.Name}, "subfolder": {f.Place.Subfolder}, "type": {string(f.Place.Area)}}
		rows = append(rows, myFile{valueOf(f), name, kind, humanize.Bytes(uint64(max(0, f.Size))), time.UnixMilli(f.Created).UTC().Format(time.DateOnly), "/" + string(c.user) + "/view?" + link.Encode()})
	}
	bound := ""
	if g.cfg.Bound != nil {
		if n := g.cfg.Bound(c.user); n > 0 {
			bound = humanize.Bytes(uint64(n))
		}
	}
	g.page(c.RequestCtx, "files", map[string]any{
		"Bound": bound,
		"Rows":  rows, "More": len(all) - len(rows), "Action": "/" + string(c.user) + "/workshop/files", "Total": humanize.Bytes(uint64(used.Total())),
		"Results": humanize.Bytes(uint64(used.Outputs)), "Uploads": humanize.Bytes(uint64(used.Inputs)), "Documents": humanize.Bytes(uint64(used.Docs)),
	})
}

// largest are a person's results and uploads.
func (g *Gateway) largest(u cluster.User) (all []files.File, used files.Used) {
	g.cfg.Tables.Files(func(t *files.Table) {
		all, used = append(t.Files(u, files.Output), t.Files(u, files.Input)...), t.Used(u)
	})
	slices.SortStableFunc(all, func(a, b files.File) int { return cmp.Compare(b.Size, a.Size) })
	return all, used
}

// valueOf names a file in the form, with what it was when it was shown.
func valueOf(f files.File) string {
	return strings.Join([]string{string(f.Ref), string(f.Place.Area), f.Place.Subfolder, f.Place.Name}, "|")
}

// removeFiles is the form's answer. What is not theirs, or another by now, stays.
func (g *Gateway) removeFiles(c *call) {
	form, err := url.ParseQuery(string(c.body))
	if err != nil {
		fail(c.RequestCtx, cluster.Errorf(cluster.Invalid, "The page sent something that cannot be read: reload it."))
		return
	}
	cmd := &files.Remove{User: c.user}
	for _, value := range form["file"] {
		part := strings.SplitN(value, "|", 4)
		if len(part) != 4 {
			continue
		}
		cmd.Files = append(cmd.Files, files.Picked{Ref: cluster.Ref(part[0]), Place: files.Place{Area: files.Area(part[1]), Subfolder: part[2], Name: part[3]}})
	}
	if len(cmd.Files) > 0 {
		if _, err := g.commit(c, cmd); err != nil {
			fail(c.RequestCtx, err)
			return
		}
	}
	redirect(c.RequestCtx, "/"+string(c.user)+"/workshop/files", fasthttp.StatusSeeOther)
}
