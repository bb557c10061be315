//go:build !linux

package wal

import "os"

func flush(f *os.File) error { return f.Sync() }
