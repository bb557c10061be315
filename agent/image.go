package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/state"
)

// An image on the wire and in a file: a line that says what it is, the length
// of its description (4 bytes, big-endian), the description (CBOR), the state.
const imageMagic = "comfyume table 1\n"

// maxDescription bounds an image's description, in bytes.
const maxDescription = 1 << 20

func writeImage(w io.Writer, im consensus.Image, body io.Reader) error {
	raw, err := cluster.Marshal(im)
	if err != nil {
		return fmt.Errorf("describe the table: %w", err)
	}
	head := binary.BigEndian.AppendUint32([]byte(imageMagic), uint32(len(raw))) //nolint:gosec // a description is small
	if _, err := w.Write(append(head, raw...)); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

// readImage reads the description; r stands at the state then.
func readImage(r io.Reader) (consensus.Image, error) {
	var im consensus.Image
	bad := cluster.Errorf(cluster.Invalid, "this is no snapshot of a workshop's table")
	head := make([]byte, len(imageMagic)+4)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:len(imageMagic)]) != imageMagic {
		return im, bad
	}
	n := binary.BigEndian.Uint32(head[len(imageMagic):])
	if n > maxDescription {
		return im, bad
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return im, bad
	}
	if err := cluster.Unmarshal(raw, &im); err != nil || im.Index == 0 {
		return im, bad
	}
	return im, nil
}

// saveSnapshot sends the table as it is now.
func (a *api) saveSnapshot(w http.ResponseWriter, _ *http.Request) {
	c, err := a.core()
	if err != nil {
		answerError(w, err)
		return
	}
	im, body, err := c.raft.Snapshot()
	if err != nil {
		answerError(w, err)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := writeImage(w, im, body); err != nil {
		a.agent.log.Warn("a snapshot was not sent whole", "err", err)
		panic(http.ErrAbortHandler) // a tidy end would make half a snapshot look whole
	}
}

// restoreSnapshot replaces the table everywhere. Only the leader's own site
// takes it.
func (a *api) restoreSnapshot(w http.ResponseWriter, r *http.Request) {
	text, err := a.restoreImage(r)
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct {
		Text string `json:"text"`
	}{text})
}

func (a *api) restoreImage(r *http.Request) (string, error) {
	return a.restoreFrom(r.Context(), r.Body, r.URL.Query().Get("confirm") == "true")
}

// restoreFrom says what is lost by going back to an image, and goes back when
// that is confirmed.
func (a *api) restoreFrom(ctx context.Context, from io.Reader, confirmed bool) (string, error) {
	c, err := a.core()
	if err != nil {
		return "", err
	}
	switch lead := c.raft.Leader(); {
	case c.raft.Leads():
	case lead == "":
		return "", cluster.Errorf(cluster.NoLeader, "a snapshot is restored on the node that leads, and none does at present")
	default:
		return "", cluster.Errorf(cluster.Conflict, "a snapshot is restored on the node that leads: run this on %s", a.agent.nameOf(lead))
	}
	im, err := readImage(from)
	switch {
	case err != nil:
		return "", err
	case im.Level > state.Level:
		return "", cluster.Errorf(cluster.Invalid, "the snapshot is of level %d and this build knows level %d: install a newer version first", im.Level, state.Level)
	}
	made := humanize.Time(time.UnixMilli(im.Made))
	text := fmt.Sprintf("The snapshot was made %s (entry %d of %s). The table goes back to that: jobs, documents, accounts and files entered since are gone from it.", made, im.Index, im.Lineage)
	if !confirmed {
		return text, nil
	}
	if err := restoreTable(ctx, c, im, from); err != nil {
		return "", err
	}
	return "Restored. " + text, nil
}
