package agent

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
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
