package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/joho/godotenv"

	"github.com/ahelme/comfyume/cluster"
)

// Origin says where an effective value came from.
type Origin string

// The origins; an earlier one wins over a later one.
const (
	FromFlag    Origin = "flag"
	FromEnv     Origin = "env"
	FromEnvFile Origin = "env-file"
	FromDefault Origin = "default"
)

// Value is the effective text of a setting.
type Value struct {
	Setting
	Text   string
	Origin Origin
	Key    string // the flag or key that gave it, "" for a default
}

// Shown is the text for people: a secret is named, never shown.
func (v Value) Shown() string {
	if v.Secret && v.Text != "" {
		return "(set, not shown)"
	}
	return v.Text
}

// Values are the effective settings with their origins.
type Values struct {
	rows        []Value
	credentials []Value // USER_CREDENTIALS_USERnnn, by key; all secret
	Notes       []string
}

// participantKey is the family of keys that name a participant and their
// password, as the old installation had them.
var participantKey = regexp.MustCompile(`^USER_CREDENTIALS_[A-Z0-9_]+$`)

// formatKey told people how to write the others: its "username:password" is
// nobody's account.
const formatKey = "USER_CREDENTIALS_FORMAT"

func isParticipant(key string) bool { return participantKey.MatchString(key) && key != formatKey }

// fileSuffix marks a key whose value is the path of a file that holds a secret.
const fileSuffix = "_FILE"

// Load works out the effective settings: flags over environment over env file
// over default. flags hold only what was given on the command line, by flag name.
func Load(flags map[string]string, environ []string) (*Values, error) {
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && v != "" {
			env[k] = v
		}
	}
	l := loader{flags: flags, env: env, table: Settings(), out: &Values{}}
	if err := l.unknown(env, "the environment"); err != nil {
		return nil, err
	}
	if err := l.readEnvFile(); err != nil {
		return nil, err
	}
	for _, s := range l.table {
		v, err := l.value(s)
		if err != nil {
			return nil, err
		}
		l.out.rows = append(l.out.rows, v)
	}
	l.out.devDefaults()
	return l.out, l.participants()
}

// devDefaults are the defaults that --dev changes.
func (v *Values) devDefaults() {
	if on, err := parseSwitch(v.text("dev")); err != nil || !on {
		return
	}
	for i := range v.rows {
		if r := &v.rows[i]; r.Origin == FromDefault {
			switch r.Name {
			case "gateway-listen":
				r.Text = devGatewayListen
			case "roles":
				r.Text = devRoles
			}
		}
	}
}

type loader struct {
	flags, env, file map[string]string
	table            []Setting
	out              *Values
}

func (l *loader) readEnvFile() error {
	path := cmp.Or(l.flags["env-file"], l.env[envPrefix+"ENV_FILE"])
	if path == "" {
		return nil
	}
	file, err := readEnv(path)
	if err != nil {
		return err
	}
	for k, v := range file {
		if v == "" {
			delete(file, k)
		}
	}
	l.file = file
	if slices.ContainsFunc(keys(file), func(k string) bool { return strings.HasPrefix(k, "REDIS_") }) {
		l.out.Notes = append(l.out.Notes, "the REDIS_ keys of "+path+" are not used: there is no Redis any more")
	}
	return l.unknown(file, path)
}

// readEnv reads a file of KEY=value lines. In other values $NAME is another key's
// value; in secrets only ${NAME} is, and any other $ is a sign of the password:
// those of the old installation have them.
func readEnv(path string) (map[string]string, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cluster.Errorf(cluster.Invalid, "the env file %s does not exist: check its name", path)
	}
	if err != nil {
		return nil, cluster.Errorf(cluster.Invalid, "the env file %s cannot be read: %v", path, err)
	}
	return parseEnv(string(raw), path)
}

func parseEnv(text, path string) (map[string]string, error) {
	text = strings.TrimPrefix(text, "\ufeff") // as editors on Windows begin a file
	file, err := godotenv.Unmarshal(text)
	literal, errLiteral := godotenv.Unmarshal(maskDollars(text))
	if err != nil || errLiteral != nil {
		// The parser's own message quotes the line, which may hold a password.
		return nil, cluster.Errorf(cluster.Invalid, "the env file %s cannot be read as KEY=value lines: look at line %d", path, damagedLine(text))
	}
	secret := map[string]bool{}
	for _, s := range Settings() {
		secret[s.Env] = s.Secret
	}
	for k, v := range literal {
		if secret[k] || isParticipant(k) {
			file[k] = strings.ReplaceAll(v, maskedDollar, "$")
		}
	}
	return file, nil
}

// damagedLine is the line behind the longest beginning of text that can be read.
func damagedLine(text string) int {
	lines := slices.Collect(strings.Lines(text))
	for n := min(len(lines), 1000); n > 0; n-- { // nobody's file is longer
		if _, err := godotenv.Unmarshal(strings.Join(lines[:n], "")); err == nil {
			return n + 1
		}
	}
	return 1
}

// maskDollars puts maskedDollar for every $ that neither is escaped nor begins
// ${NAME}.
func maskDollars(text string) string {
	var out strings.Builder
	for i := range len(text) {
		if text[i] == '$' && (i == 0 || text[i-1] != '\\') && !strings.HasPrefix(text[i+1:], "{") {
			out.WriteString(maskedDollar)
			continue
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

const maskedDollar = "\ue000"

// unknown refuses keys that look like ours and are not: a misspelt key that is
// quietly ignored costs an instructor an hour.
func (l *loader) unknown(env map[string]string, where string) error {
	var known []string
	for _, s := range l.table {
		known = append(known, s.Env)
		if s.Secret {
			known = append(known, s.Env+fileSuffix)
		}
	}
	for _, k := range keys(env) {
		if strings.HasPrefix(k, envPrefix) && !slices.Contains(known, k) {
			return cluster.Errorf(cluster.Invalid, "unknown key %s in %s: did you mean %s?", k, where, nearest(k, known))
		}
	}
	return nil
}

func (l *loader) value(s Setting) (Value, error) {
	v := Value{Setting: s}
	if text, ok := l.flags[s.Name]; ok {
		if s.Secret {
			return v, cluster.Errorf(cluster.Invalid, "--%s is a secret: give it as %s or in the file that %s names, never as a flag", s.Name, s.Env, s.Env+fileSuffix)
		}
		v.Text, v.Origin, v.Key = text, FromFlag, "--"+s.Name
		return v, s.check(v)
	}
	for _, from := range []struct {
		env    map[string]string
		origin Origin
	}{{l.env, FromEnv}, {l.file, FromEnvFile}} {
		text, key, err := lookup(from.env, s.Env, s.Secret)
		if err != nil {
			return v, err
		}
		if text != "" {
			v.Text, v.Origin, v.Key = text, from.origin, key
			return v, s.check(v)
		}
	}
	v.Text, v.Origin = s.Default, FromDefault
	return v, nil
}

// lookup reads a key, or for a secret the file that KEY_FILE names.
func lookup(env map[string]string, key string, secret bool) (text, from string, err error) {
	text = env[key]
	path := env[key+fileSuffix]
	if !secret || path == "" {
		return text, key, nil
	}
	if text != "" {
		return "", "", cluster.Errorf(cluster.Invalid, "both %s and %s are set: remove one", key, key+fileSuffix)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", cluster.Errorf(cluster.Invalid, "the file of %s cannot be read: %v", key+fileSuffix, err)
	}
	if text = strings.TrimRight(string(b), "\r\n"); text == "" {
		return "", "", cluster.Errorf(cluster.Invalid, "the file of %s is empty: %s", key+fileSuffix, path)
	}
	return text, key + fileSuffix, nil
}

// participants collects the family of keys that hold NAME:PASSWORD.
func (l *loader) participants() error {
	seen := map[string]bool{}
	for _, from := range []struct {
		env    map[string]string
		origin Origin
	}{{l.env, FromEnv}, {l.file, FromEnvFile}} {
		for _, k := range keys(from.env) {
			key := strings.TrimSuffix(k, fileSuffix)
			if !isParticipant(key) || seen[key] {
				continue
			}
			seen[key] = true
			text, origin, err := lookup(from.env, key, true)
			if err != nil {
				return err
			}
			v := Value{Setting: Setting{Name: strings.ToLower(key), Env: key, Secret: true, Group: groupPeople}, Text: text, Origin: from.origin, Key: origin}
			l.out.credentials = append(l.out.credentials, v)
		}
	}
	slices.SortFunc(l.out.credentials, func(a, b Value) int { return cmp.Compare(a.Env, b.Env) })
	return nil
}

// All lists every effective value, participants' keys last.
func (v *Values) All() []Value { return append(slices.Clone(v.rows), v.credentials...) }

// envQuoted is a value as it stands in a file of KEY=value lines. Between single
// quotes nothing has a meaning; what cannot stand there is escaped, and a quote at its
// end, which the parser would take for its own, is followed by nothing. It must not
// end with a backslash.
func envQuoted(text string) string {
	if !strings.ContainsAny(text, "'\n\r") {
		return "'" + text + "'"
	}
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "\n", `\n`, "\r", `\r`).Replace(text)
	if strings.HasSuffix(text, `"`) {
		escaped += "${" + envPrefix + "NOTHING}"
	}
	return `"` + escaped + `"`
}

// lines are the settings that somebody gave, as a file of KEY=value lines. Where the
// state lies is the machine's own affair, and not among them.
func (v *Values) lines() string {
	var out strings.Builder
	for _, r := range v.All() {
		if r.Origin == FromDefault || r.Name == "state-dir" || r.Name == "env-file" || r.Name == "form" {
			continue
		}
		if strings.HasSuffix(r.Text, `\`) { // no quotes hold it
			fmt.Fprintf(&out, "# %s ends with a backslash: enter it by hand\n", r.Env)
			continue
		}
		fmt.Fprintf(&out, "%s=%s\n", r.Env, envQuoted(r.Text))
	}
	return out.String()
}

// text is the effective text of a setting in the table.
func (v *Values) text(name string) string {
	for _, r := range v.rows {
		if r.Name == name {
			return r.Text
		}
	}
	panic("agent: no setting is called " + name) // a defect, found by every test
}

// given reports whether somebody set it.
func (v *Values) given(name string) bool {
	return slices.ContainsFunc(v.rows, func(r Value) bool { return r.Name == name && r.Origin != FromDefault })
}

func keys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// check refuses a text that does not have the setting's shape.
func (s Setting) check(v Value) error {
	fail := func(want string) error {
		if s.Secret {
			return cluster.Errorf(cluster.Invalid, "%s: %s", v.Key, want)
		}
		return cluster.Errorf(cluster.Invalid, "%s=%s: %s", v.Key, v.Text, want)
	}
	if len(s.Words) > 0 && !slices.Contains(s.Words, v.Text) {
		return fail("use " + strings.Join(s.Words, ", "))
	}
	var err error
	switch s.Shape {
	case Switch:
		_, err = parseSwitch(v.Text)
	case Number:
		_, err = parseNumber(v.Text)
	case Duration:
		_, err = parseDuration(v.Text)
	case Size:
		_, err = parseSize(v.Text)
	case Text, Path, List:
	}
	if err != nil {
		return fail(err.Error())
	}
	return nil
}

// String keeps secrets out of logs and panics.
func (v Value) String() string { return fmt.Sprintf("%s=%s (%s)", v.Name, v.Shown(), v.Origin) }
