// Package comfyui starts ComfyUI processes of this machine and looks after
// them. It promises that a process is started again when it ends, however it
// ends, each on its own and with a growing pause; that it is reached from this
// machine only; that what it printed last can be read; and that what stops it
// from starting (a missing Python, package or system library, a taken port) is
// named in a sentence. It refuses to know jobs.
//
//	cannot start --+
//	               v
//	booting -> importing nodes -> ready -> (ended) -> starting again -> booting
//	   ^                            |                        |
//	   +---- Restart, Start --------+---- Stop --> stopped   +--> crash loop
package comfyui
