package sketch

import (
	"net/http"
	"slices"
)

// modelFolders are the folders that every ComfyUI has. They are empty here: a
// page must say that a model is missing, not that its folder is unheard of.
func modelFolders() []string {
	return []string{
		"checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models", "embeddings", "diffusers",
		"vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models", "hypernetworks", "photomaker", "classifiers",
		"model_patches", "audio_encoders",
	}
}

func listModelFolders(w http.ResponseWriter, _ *http.Request) { writeValue(w, modelFolders()) }

func listExperimentFolders(w http.ResponseWriter, _ *http.Request) {
	type folder struct {
		Name    string   `json:"name"`
		Folders []string `json:"folders"`
	}
	out := []folder{}
	for _, name := range modelFolders() {
		out = append(out, folder{name, []string{}})
	}
	writeValue(w, out)
}

// listModels is a folder's models: none, or 404 for a folder that is not there.
func listModels(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(modelFolders(), r.PathValue("folder")) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	writeValue(w, []string{})
}
