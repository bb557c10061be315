package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBugsCanBePlanted wants every text that a bug replaces to stand exactly
// once in the tree, so that no bug rots unnoticed, and the tree to stay clean.
func TestBugsCanBePlanted(t *testing.T) {
	if n := len(bugs()); n != 8 {
		t.Errorf("%d bugs, want 8", n)
	}
	for _, b := range bugs() {
		before := map[string]string{}
		for _, e := range b.Edits {
			raw, err := os.ReadFile(filepath.Join("..", "..", e.File))
			if err != nil {
				t.Fatal(err)
			}
			before[e.File] = string(raw)
			if e.Old == e.New {
				t.Errorf("%s changes nothing", b.Name)
			}
		}
		if _, err := b.overlay(filepath.Join("..", ".."), t.TempDir()); err != nil {
			t.Error(err)
		}
		for file, text := range before {
			if raw, err := os.ReadFile(filepath.Join("..", "..", file)); err != nil || string(raw) != text {
				t.Errorf("%s: %s is not as it was: %v", b.Name, file, err)
			}
		}
		if _, ok := schedules()[b.Name]; !ok {
			t.Errorf("%s has no schedule that catches it", b.Name)
		}
	}
}
