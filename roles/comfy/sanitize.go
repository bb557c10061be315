package comfy

import "bytes"

// Sanitize turns the NaN, Infinity and -Infinity that Python writes outside
// strings into null, so that Go and browsers can read the rest. Input without
// them is returned as it is, not copied. It needs no valid JSON and changes
// nothing else.
func Sanitize(raw []byte) []byte {
	if !bytes.Contains(raw, []byte("NaN")) && !bytes.Contains(raw, []byte("Infinity")) {
		return raw
	}
	var out []byte
	copied := 0
	for i := 0; i < len(raw); {
		if raw[i] == '"' {
			i = skipString(raw, i)
			continue
		}
		n := nonFinite(raw, i)
		if n == 0 {
			i++
			continue
		}
		out = append(append(out, raw[copied:i]...), "null"...)
		i += n
		copied = i
	}
	if copied == 0 {
		return raw
	}
	return append(out, raw[copied:]...)
}

// nonFinite returns the length of the token at i, or 0 when it is another one
// or only part of a word.
func nonFinite(raw []byte, i int) int {
	if i > 0 && wordByte(raw[i-1]) {
		return 0
	}
	for _, token := range []string{"NaN", "Infinity", "-Infinity"} {
		end := i + len(token)
		if end <= len(raw) && string(raw[i:end]) == token && (end == len(raw) || !wordByte(raw[end])) {
			return len(token)
		}
	}
	return 0
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '+' || c == '.'
}
