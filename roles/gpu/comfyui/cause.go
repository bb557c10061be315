package comfyui

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// known are the last words of a Python that people can do something about. The
// texts are those of CPython, the dynamic linker, PyTorch and aiohttp.
var known = []struct {
	words *regexp.Regexp
	say   func(found []string, python string) string
}{
	{regexp.MustCompile(`ModuleNotFoundError: No module named '([\w.]+)'`), func(f []string, python string) string {
		return fmt.Sprintf("the Python package %s is missing: install what ComfyUI needs with %s -m pip install -r requirements.txt in its folder", f[1], python)
	}},
	{regexp.MustCompile(`(?:ImportError|OSError): (lib[\w.+-]+\.so[\w.]*): cannot open shared object file`), func(f []string, _ string) string {
		return fmt.Sprintf("the system library %s is missing: install it with the system's package manager%s", f[1], packageOf(f[1]))
	}},
	{regexp.MustCompile(`Found no NVIDIA driver|Torch not compiled with CUDA enabled|No CUDA GPUs are available|no NVIDIA driver on your system`), func([]string, string) string {
		return "PyTorch finds no GPU: check the driver with nvidia-smi and that the PyTorch build has CUDA; --comfyui-args=--cpu runs without one"
	}},
	{regexp.MustCompile(`address already in use`), func([]string, string) string {
		return "its port is taken by another program"
	}},
	{regexp.MustCompile(`(?i)no space left on device`), func([]string, string) string { return "the disk is full" }},
	{regexp.MustCompile(`PermissionError: \[Errno 13\] Permission denied: (\S+)`), func(f []string, _ string) string {
		return fmt.Sprintf("its user may not use %s: give the folder to that user, or name another with --comfyui-user", f[1])
	}},
	{regexp.MustCompile(`can't open file '?([^':]+)'?: \[Errno`), func(f []string, _ string) string {
		return fmt.Sprintf("%s cannot be read: check --comfyui-dir and who may read it", f[1])
	}},
	{regexp.MustCompile(`main\.py: error: (.+)`), func(f []string, _ string) string {
		return fmt.Sprintf("this ComfyUI does not take its arguments (%s): check --comfyui-args", f[1])
	}},
	{regexp.MustCompile(`SyntaxError: `), func([]string, string) string {
		return "its Python is too old, or a file is damaged: see the last lines"
	}},
}

// cause says in a sentence why a process ended, as far as its last lines tell;
// "" if they do not.
func cause(lines []Line, python string) string {
	for _, l := range slices.Backward(lines) {
		for _, k := range known {
			if f := k.words.FindStringSubmatch(l.Text); f != nil {
				return k.say(f, python)
			}
		}
	}
	return ""
}

// packageOf names the Debian package of the libraries that are known to lack on
// plain machines.
func packageOf(lib string) string {
	for prefix, pkg := range map[string]string{"libgomp.so": "libgomp1", "libGL.so": "libgl1", "libgthread-2": "libglib2.0-0", "libglib-2": "libglib2.0-0", "libcuda.so": "the NVIDIA driver", "libsndfile": "libsndfile1"} {
		if strings.HasPrefix(lib, prefix) {
			return ", on Debian and Ubuntu: " + pkg
		}
	}
	return ""
}

// The words by which phases are told, of ComfyUI 0.3 to 0.12.
var (
	saysDevice = regexp.MustCompile(`^(Device: |Set vram state to|Total VRAM )`)
	// A custom node that cannot be imported does not stop ComfyUI; its line is
	// "   0.1 seconds (IMPORT FAILED): /path/custom_nodes/pack".
	saysImportFailed = regexp.MustCompile(`\(IMPORT FAILED\): .*?([^/\\]+)$`)
)
