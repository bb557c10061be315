package comfy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
)

// Capabilities is what one ComfyUI says it can do, as a gateway serves it to
// pages when no GPU is up. Raw members keep the server's bytes. It is stored as
// one blob: gzipped JSON.
type Capabilities struct {
	SystemStats      json.RawMessage            `json:"system_stats"`
	ObjectInfo       json.RawMessage            `json:"object_info"`
	Extensions       []string                   `json:"extensions"`
	Embeddings       []string                   `json:"embeddings"`
	Models           map[string][]string        `json:"models"`            // by folder
	ExperimentModels map[string]json.RawMessage `json:"experiment_models"` // by folder: /experiment/models/{folder}
	I18n             json.RawMessage            `json:"i18n"`
	Features         json.RawMessage            `json:"features"`
	GlobalSubgraphs  json.RawMessage            `json:"global_subgraphs"`
	NodeReplacements json.RawMessage            `json:"node_replacements"`
	Subgraphs        map[string]json.RawMessage `json:"subgraphs,omitempty"` // by id: /global_subgraphs/{id}, with its data
	Metadata         map[string]json.RawMessage `json:"metadata,omitempty"`  // by "folder/name": /view_metadata
	Previews         map[string]WebFile         `json:"previews,omitempty"`  // by "folder/name": pictures of models
	Web              map[string]WebFile         `json:"web,omitempty"`       // by path: what custom nodes bring for the page
}

// WebFile is a file of a server's web folders.
type WebFile struct {
	Type string `json:"type"` // Content-Type as the server gave it
	Body []byte `json:"body"`
}

// maxCapabilities bounds the unpacked document, in bytes.
const maxCapabilities = 256 << 20

// Encode packs the document. Equal capabilities give equal bytes.
func (c *Capabilities) Encode() ([]byte, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write capabilities: %w", err)
	}
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf) // no name and no time in the header
	if _, err := w.Write(raw); err != nil {
		return nil, fmt.Errorf("pack capabilities: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack capabilities: %w", err)
	}
	return buf.Bytes(), nil
}

// DecodeCapabilities unpacks what Encode wrote.
func DecodeCapabilities(r io.Reader) (*Capabilities, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("unpack capabilities: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxCapabilities+1))
	if err != nil {
		return nil, fmt.Errorf("unpack capabilities: %w", err)
	}
	if len(raw) > maxCapabilities {
		return nil, fmt.Errorf("unpack capabilities: %w", ErrTooLarge)
	}
	c := &Capabilities{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	return c, nil
}
