package blob_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
)

const mib = 1 << 20

// zeros yields n bytes, running each before the bytes at that place.
type zeros struct {
	left int64
	each func(left int64)
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	if z.each != nil {
		z.each(z.left)
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func TestDiskIsNeverFilledOver90Percent(t *testing.T) {
	free := atomic.Int64{}
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return free.Load(), 1000 * mib, nil })
	for _, c := range []struct {
		free, size int64
		want       cluster.Code
	}{
		{500 * mib, 10 * mib, ""},
		{111 * mib, 10 * mib, ""},
		{109 * mib, 10 * mib, cluster.NoSpace},
		{50 * mib, 1, cluster.NoSpace},
		{0, 1, cluster.NoSpace},
	} {
		free.Store(c.free)
		if room, err := d.Left(); err != nil || room != max(0, c.free-150*mib) {
			t.Errorf("%d MiB free: room for %d bytes, %v", c.free/mib, room, err)
		}
		_, _, err := d.Put(t.Context(), &zeros{left: c.size}, c.size)
		if cluster.CodeOf(err) != c.want {
			t.Errorf("%d MiB free, %d bytes: %v", c.free/mib, c.size, err)
		}
		if err != nil && !strings.Contains(cluster.MessageOf(err), "Tell the instructor") {
			t.Errorf("no next step: %v", err)
		}
	}
}

// A refusal must not keep the space it was refused.
func TestRefusedSpaceIsGivenBack(t *testing.T) {
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return 150 * mib, 1000 * mib, nil })
	for range 100 {
		if _, _, err := d.Put(t.Context(), &zeros{left: 1}, 60*mib); cluster.CodeOf(err) != cluster.NoSpace {
			t.Fatal(err)
		}
		if _, _, err := d.Put(t.Context(), &zeros{left: 1}, 2); cluster.CodeOf(err) != cluster.Invalid {
			t.Fatal(err)
		}
	}
	if _, _, err := d.Put(t.Context(), &zeros{left: 40 * mib}, 40*mib); err != nil {
		t.Errorf("40 of 50 MiB: %v", err)
	}
}

func TestTwoUploadsAreNotPromisedTheSameSpace(t *testing.T) {
	// 50 MiB may be taken. Nothing is subtracted as bytes arrive: the first
	// upload stands still after its reservation.
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return 150 * mib, 1000 * mib, nil })
	inside, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		_, _, err := d.Put(t.Context(), &zeros{left: 30 * mib, each: func(int64) {
			if first {
				first = false
				close(inside)
				<-goOn
			}
		}}, 30*mib)
		done <- err
	}()
	<-inside
	if _, _, err := d.Put(t.Context(), &zeros{left: 30 * mib}, 30*mib); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("the second of 30 MiB: %v", err)
	}
	if _, _, err := d.Put(t.Context(), &zeros{left: 10 * mib}, 10*mib); err != nil {
		t.Errorf("10 MiB beside it: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("the first: %v", err)
	}
}

// As bytes reach the disk the volume's own count sees them; counting them in
// the reservation as well would refuse uploads at half the disk.
func TestWrittenBytesAreCountedOnce(t *testing.T) {
	var written atomic.Int64
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return 150*mib - written.Load(), 1000 * mib, nil })
	inside, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		once := false
		_, _, err := d.Put(t.Context(), &zeros{left: 30 * mib, each: func(left int64) {
			written.Store(30*mib - left)
			if left <= 2*mib && !once {
				once = true
				close(inside)
				<-goOn
			}
		}}, 30*mib)
		done <- err
	}()
	<-inside // 28 MiB are on the disk, 22 are left and 2 of those are promised
	if _, _, err := d.Put(t.Context(), &zeros{left: 15 * mib}, 15*mib); err != nil {
		t.Errorf("15 of 20 MiB: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUnknownSizeStopsBeforeTheDiskIsFull(t *testing.T) {
	root := t.TempDir()
	var written atomic.Int64
	d := openDir(t, root, func(string) (int64, int64, error) { return 140*mib - written.Load(), 1000 * mib, nil })
	taken := int64(0)
	_, _, err := d.Put(t.Context(), &zeros{left: 64 * mib, each: func(left int64) {
		taken = 64*mib - left
		written.Store(taken)
	}}, -1)
	if cluster.CodeOf(err) != cluster.NoSpace || taken > 40*mib || taken < 16*mib {
		t.Errorf("%d MiB were written, %v", taken/mib, err)
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	written.Store(0)
	if _, _, err := d.Put(t.Context(), &zeros{left: 20 * mib}, 20*mib); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
}

func TestMoreThanAnnouncedIsRefusedAtOnce(t *testing.T) {
	d := openDir(t, t.TempDir(), roomy)
	endless := &zeros{left: 40 * mib} // bounded: a store that fails this must not fill a real disk
	_, _, err := d.Put(t.Context(), endless, 1000)
	if cluster.CodeOf(err) != cluster.Invalid || 40*mib-endless.left > 10*mib {
		t.Errorf("%d bytes were read, %v", 40*mib-endless.left, err)
	}
}

func TestVolumeThatCannotBeAsked(t *testing.T) {
	gone := errors.New("unmounted")
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return 0, 0, gone })
	if _, _, err := d.Put(t.Context(), bytes.NewReader([]byte("x")), 1); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestMinFreeStandsInForTheTenPercent(t *testing.T) {
	d, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), MinFree: 5 * mib, Space: func(string) (int64, int64, error) { return 10 * mib, 1000 * mib, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Put(t.Context(), &zeros{left: 6 * mib}, 6*mib); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("6 of 5 MiB: %v", err)
	}
	put(t, d, blobtest.Noise(1, 4*mib))
}

// What is new stops at 85 %, what is under way at 90 %, and both count what the
// other has set aside.
func TestNothingNewIsTakenBefore90Percent(t *testing.T) {
	free := atomic.Int64{}
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return free.Load(), 1000 * mib, nil })
	for _, c := range []struct {
		free, size  int64
		job, upload bool // is taken
		result      bool
	}{
		{500 * mib, 10 * mib, true, true, true},
		{155 * mib, 10 * mib, true, false, true},
		{149 * mib, 1, false, false, true},
		{101 * mib, 1, false, false, true},
		{99 * mib, 1, false, false, false},
	} {
		free.Store(c.free)
		_, _, uploaded := d.Take(t.Context(), &zeros{left: c.size}, c.size)
		_, _, stored := d.Put(t.Context(), &zeros{left: c.size}, c.size)
		for what, got := range map[string]struct {
			err  error
			want bool
		}{"job": {d.Room(0), c.job}, "upload": {uploaded, c.upload}, "upload that is announced": {d.Room(c.size), c.upload}, "result": {stored, c.result}} {
			if (got.err == nil) != got.want || got.err != nil && cluster.CodeOf(got.err) != cluster.NoSpace {
				t.Errorf("%d MiB free, %s of %d bytes: %v", c.free/mib, what, c.size, got.err)
			}
		}
	}
	free.Store(130 * mib)
	if text := cluster.MessageOf(d.Room(0)); !strings.Contains(text, "87 % full") || !strings.Contains(text, "Nothing is lost") {
		t.Errorf("it says %q", text)
	}
}

func TestPercentOfAVolume(t *testing.T) {
	for _, c := range []struct {
		free, total int64
		want        int
	}{{0, 0, 0}, {1 << 50, 1 << 60, 99}, {101 * mib, 1000 * mib, 89}, {100 * mib, 1000 * mib, 90}, {0, mib, 100}, {mib, mib, 0}} {
		if got := blob.Percent(c.free, c.total); got != c.want {
			t.Errorf("%d of %d bytes free are %d %%, want %d", c.free, c.total, got, c.want)
		}
	}
}
