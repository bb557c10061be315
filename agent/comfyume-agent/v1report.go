package main

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ahelme/comfyume/agent"
)

// v1Row is one line of the report of an import.
type v1Row struct {
	State  string `json:"state"` // took, already, ignored or missed
	Name   string `json:"name"`  // USER/AREA/PATH of what was taken, else the source
	Source string `json:"source,omitempty"`
	Why    string `json:"why,omitempty"`
	Files  int    `json:"files"`
	Bytes  int64  `json:"bytes"`
}

// v1Report tells of every file and key, in lines as they come or as JSON at the end.
type v1Report struct {
	t    *terminal
	json bool
	dry  bool

	rows                            []v1Row
	taken, already, ignored, missed int
	renamed                         int
	bytes                           int64
}

// plain is a name as it may stand on a terminal.
func plain(name string) string {
	if utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}

func (r *v1Report) say(row v1Row, format string, args ...any) {
	if r.json {
		r.rows = append(r.rows, row)
		return
	}
	fmt.Fprintf(r.t.out, format+"\n", args...)
}

// ignore tells of n files that are left out by rule.
func (r *v1Report) ignore(source string, n int, why string) {
	r.ignored += n
	files := ""
	if strings.HasSuffix(source, "/") {
		files = " (" + count(n, "file", "files") + ")"
	}
	r.say(v1Row{State: "ignored", Name: source, Why: why, Files: n}, "ignored %s%s: %s", plain(source), files, why)
}

// miss tells of a file that should have come over and does not.
func (r *v1Report) miss(source, why string) {
	r.missed++
	r.say(v1Row{State: "missed", Name: source, Why: why, Files: 1}, "missed %s: %s", plain(source), why)
}

// place tells where a file stands now.
func (r *v1Report) place(f v1Found, p agent.V1Place) {
	name := path.Join(string(f.User), f.Area, p.Path)
	row := v1Row{State: "already", Name: name, Source: f.source, Files: 1, Bytes: f.Size}
	if p.Already {
		r.already++
		r.say(row, "already %s", plain(name))
		return
	}
	r.taken++
	r.bytes += f.Size
	row.State = "took"
	verb, other := "took", ""
	if r.dry {
		verb = "would take"
	}
	if p.Path != f.Path {
		r.renamed++
		row.Why = fmt.Sprintf("%s has another file of that name here", f.User)
		other = fmt.Sprintf(" from %s: %s, which stays", plain(f.source), row.Why)
	}
	r.say(row, "%s %s%s", verb, plain(name), other)
}

// settings tells what became of a person's settings.
func (r *v1Report) settings(f v1Found, k agent.V1Kept) {
	name := path.Join(string(f.User), f.Area)
	for _, key := range k.Kept {
		r.say(v1Row{State: "ignored", Name: name, Source: f.source, Why: key + " is set otherwise here, which stays"}, "ignored %s: %s has set %s otherwise here, which stays", plain(f.source), f.User, plain(key))
	}
	row := v1Row{State: "took", Name: name, Source: f.source, Files: 1, Bytes: f.Size}
	if k.Taken == 0 {
		r.already++
		row.State = "already"
		r.say(row, "already %s", plain(name))
		return
	}
	r.taken++
	r.bytes += f.Size
	verb := "took"
	if r.dry {
		verb = "would take"
	}
	r.say(row, "%s %s (%s)", verb, plain(name), count(k.Taken, "key", "keys"))
}

func (r *v1Report) accounts(all []agent.V1Account) {
	for _, a := range all {
		text := map[agent.V1AccountState]string{
			agent.V1Made: "made, with the old password", agent.V1Already: "there already, with the old password",
			agent.V1Stays:   "kept: it has another password here; the old one is not taken (to set it: comfyume-agent user passwd " + string(a.Name) + ")",
			agent.V1Left:    "ignored",
			agent.V1Refused: "missed",
		}[a.State]
		switch {
		case a.State == agent.V1Made && r.dry:
			text = "would be made, with the old password"
		case a.State == agent.V1Refused:
			r.missed++
		}
		if a.Why != "" {
			text += ": " + a.Why
		}
		if !r.json {
			fmt.Fprintf(r.t.out, "account %s %s\n", a.Name, text)
		}
	}
}

func (r *v1Report) keys(e *agent.V1Env) {
	if e == nil || r.json {
		return
	}
	for _, k := range e.Keys {
		text := ""
		switch {
		case k.Ignored != "":
			text = "ignored: " + k.Ignored
		case k.Account != "":
			text = "-> account " + k.Account
		case k.Command != "":
			text = "-> " + k.Command
		case k.GPU:
			text = fmt.Sprintf("-> %s=%s (on GPU machines)", k.Setting, plain(k.Value))
		default:
			text = fmt.Sprintf("-> %s=%s", k.Setting, plain(k.Value))
		}
		fmt.Fprintf(r.t.out, "key %s %s\n", plain(k.Key), text)
	}
}

// v1Sum is the end of a report.
type v1Sum struct {
	Files       int   `json:"files"`
	Bytes       int64 `json:"bytes"`
	Already     int   `json:"already"`
	Ignored     int   `json:"ignored"`
	KeysUsed    int   `json:"keys_used"`
	KeysIgnored int   `json:"keys_ignored"`
	Renamed     int   `json:"renamed"`
	Missed      int   `json:"missed"`
	DryRun      bool  `json:"dry_run"`
}

// end writes the last line, or the whole report as JSON.
func (r *v1Report) end(e *agent.V1Env, accounts []agent.V1Account) error {
	s := v1Sum{Files: r.taken, Bytes: r.bytes, Already: r.already, Ignored: r.ignored, Renamed: r.renamed, Missed: r.missed, DryRun: r.dry}
	var keys []agent.V1Key
	if e != nil {
		keys = e.Keys
		s.KeysUsed = e.Used()
		s.KeysIgnored = len(keys) - s.KeysUsed
	}
	if r.json {
		return emit(r.t.out, struct {
			Summary  v1Sum             `json:"summary"`
			Rows     []v1Row           `json:"rows"`
			Accounts []agent.V1Account `json:"accounts"`
			Keys     []agent.V1Key     `json:"keys"`
		}{s, append([]v1Row{}, r.rows...), append([]agent.V1Account{}, accounts...), append([]agent.V1Key{}, keys...)})
	}
	dry := ""
	if r.dry {
		dry = " (dry run: nothing was changed)"
	}
	_, err := fmt.Fprintf(r.t.out, "import v1: files=%d bytes=%d already=%d ignored=%d keys_used=%d keys_ignored=%d renamed=%d missed=%d%s\n",
		s.Files, s.Bytes, s.Already, s.Ignored, s.KeysUsed, s.KeysIgnored, s.Renamed, s.Missed, dry)
	return err
}
