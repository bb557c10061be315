package gossip

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ahelme/comfyume/cluster"
)

// longest is a Meta that exceeds every bound.
func longest() Meta {
	text := strings.Repeat("\U0001F4A1x", 500)
	m := Meta{
		Incarnation: text, Generation: cluster.Generation{Number: math.MaxUint64, Mark: text},
		Applied: math.MaxUint64, Started: math.MinInt64, Running: math.MaxInt, Waiting: math.MaxInt, Draining: true,
	}
	m.Member = cluster.Member{ID: cluster.NodeID(text), Name: text, Version: text, Level: math.MaxUint32}
	for range 100 {
		m.Roles = append(m.Roles, cluster.Role(text))
	}
	return m
}

func TestLongestMetaFits(t *testing.T) {
	m := longest().clipped()
	m.Name, m.Version = strings.Repeat("a", maxName), strings.Repeat("a", maxVersion) // cut runes leave a byte or two
	m.Incarnation, m.Generation.Mark = strings.Repeat("a", maxText), strings.Repeat("a", maxMark)
	for i := range m.Roles {
		m.Roles[i] = cluster.Role(strings.Repeat("a", maxRole))
	}
	b, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the longest record has %d of %d bytes", len(b), maxMeta)
	if _, err := encode(longest().clipped()); err != nil {
		t.Error(err)
	}
}

func TestMetaIsCutNotBroken(t *testing.T) {
	m := longest().clipped()
	if len(m.Name) > maxName || !utf8.ValidString(m.Name) || m.Running != maxCount || len(m.Roles) != maxRoles {
		t.Errorf("clipped to %+v", m)
	}
	if got := (Meta{Running: -1}).clipped().Running; got != 0 {
		t.Errorf("a count of -1 became %d", got)
	}
	if got := cut("ab\xff\xfecd", 5); got != "ab?cd" {
		t.Errorf("cut gave %q", got)
	}
}

func FuzzMeta(f *testing.F) {
	f.Add("host", "v1.2-3-gabc", "gpu", "mark", uint64(7), int64(1700000000000), 3, true)
	f.Add("\xff\xfe", strings.Repeat("ä", 400), "", "\x00", uint64(math.MaxUint64), int64(-1), -9, false)
	f.Fuzz(func(t *testing.T, name, version, role, mark string, number uint64, at int64, count int, draining bool) {
		m := Meta{
			Incarnation: mark, Generation: cluster.Generation{Number: number, Mark: mark},
			Applied: number, Started: at, Running: count, Waiting: count, Draining: draining,
		}
		m.Member = cluster.Member{ID: "n1", Name: name, Roles: []cluster.Role{cluster.Role(role)}, Version: version, Level: uint32(number)}
		want := m.clipped()
		b, err := encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode("n1", b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	b, err := encode(longest().clipped())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte("\xa1\x18\x63\x01"))                             // a key of a later version
	f.Add([]byte("\xa1\x02\x9b\xff\xff"))                         // a list of very many roles
	f.Add([]byte("\xa1\x01\x78\xff"))                             // a name that is not there
	f.Add([]byte("\xa1\x09\x1b\xff\xff\x00\x00\x00\x00\x00\x00")) // a count too large
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode("n1", b)
		if err != nil {
			return
		}
		if !reflect.DeepEqual(m, m.clipped()) {
			t.Errorf("decoded beyond the bounds: %+v", m)
		}
		if _, err := encode(m); err != nil {
			t.Error(err)
		}
	})
}
