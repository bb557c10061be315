package wal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Files is the folder that a log lives in.
type Files interface {
	// Open opens a file for reading and writing, made when it is not there.
	Open(name string) (File, error)
	Remove(name string) error
	List() ([]string, error)
	// Sync returns when the names of files are on the disk as they are now.
	Sync() error
}

// File is one of its files.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Sync returns when what was written is on the disk.
	Sync() error
}

// Dir is a folder of the operating system, which must exist.
func Dir(path string) Files { return dir(path) }

type dir string

func (d dir) Open(name string) (File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

func (d dir) Remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

func (d dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type file struct{ *os.File }

func (f file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync flushes the data; when a file was made or when it was changed is of no use to a log.
func (f file) Sync() error { return flush(f.File) }
