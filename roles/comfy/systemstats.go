package comfy

import "encoding/json"

// SystemStats is the answer of GET /system_stats. Raw is the whole of it when it
// came from a server.
type SystemStats struct {
	System  SystemInfo      `json:"system"`
	Devices []Device        `json:"devices"`
	Raw     json.RawMessage `json:"-"`
}

// SystemInfo is the server and its machine. Argv is never null: pages look into it.
type SystemInfo struct {
	OS                        string   `json:"os"`
	RAMTotal                  int64    `json:"ram_total"`
	RAMFree                   int64    `json:"ram_free"`
	ComfyUIVersion            string   `json:"comfyui_version"`
	RequiredFrontendVersion   string   `json:"required_frontend_version"`
	InstalledTemplatesVersion string   `json:"installed_templates_version"`
	RequiredTemplatesVersion  string   `json:"required_templates_version"`
	PythonVersion             string   `json:"python_version"`
	PyTorchVersion            string   `json:"pytorch_version"`
	EmbeddedPython            bool     `json:"embedded_python"`
	Argv                      []string `json:"argv"`
}

// Device is one accelerator, or the processor.
type Device struct {
	Name           string `json:"name"`
	Type           string `json:"type"`
	Index          int    `json:"index"`
	VRAMTotal      int64  `json:"vram_total"`
	VRAMFree       int64  `json:"vram_free"`
	TorchVRAMTotal int64  `json:"torch_vram_total"`
	TorchVRAMFree  int64  `json:"torch_vram_free"`
}

// Encode writes the body.
func (s SystemStats) Encode() []byte {
	s.System.Argv = notNil(s.System.Argv)
	if s.Devices == nil {
		s.Devices = []Device{}
	}
	return encode(s)
}
