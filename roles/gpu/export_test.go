package gpu

import "io"

// EditPNG gives tests the reader that edits a picture's text.
func EditPNG(from io.Reader, edit func(keyword string) (text []byte, keep bool)) io.Reader {
	return &pngReader{from: from, edit: edit}
}

// TrimPaths gives tests what is done to host paths.
var TrimPaths = trimPaths
