package ui

import (
	"fmt"
	"time"
)

// Space is the disk of a node's state folder and what the node keeps there. In a
// View its numbers are rounded.
type Space struct {
	Used  int   `json:"used"` // per cent, -1 = unknown
	Free  int64 `json:"free"` // bytes
	Total int64 `json:"total"`
	Full  int64 `json:"full_s"` // seconds until it is 90 % full if it grows on so, or one of the two below

	Keeper  bool  `json:"keeper"` // it keeps the files of the workshop
	Blobs   int64 `json:"blobs"`  // files by content
	Bytes   int64 `json:"bytes"`
	Partial int64 `json:"partial"` // being written now
	Damaged int64 `json:"damaged"` // set aside
	Trash   int64 `json:"trash"`   // that nothing names any more, before they are gone
	Here    int   `json:"here"`    // that the table names
	Missing int   `json:"missing"` // likewise, that are not here

	Scrubbed int64 `json:"scrubbed"`     // when every file had been read again last, milliseconds since 1970; 0 = never
	Found    int64 `json:"damage_found"` // how many were found damaged, ever
}

// What Full may say beside a time.
const (
	FullUnknown = -1 // it has not been measured for long enough
	FullNever   = -2 // it does not grow
)

// FullWords says when a disk is full: "in about 5 h", "never", "-".
func FullWords(s int64) string {
	switch d := time.Duration(max(0, s)) * time.Second; {
	case s == FullUnknown:
		return "-"
	case s == FullNever:
		return "never"
	case s == 0:
		return "now"
	case d > 365*24*time.Hour:
		return "in more than a year"
	case d >= 48*time.Hour:
		return fmt.Sprintf("in about %d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("in about %d h", d/time.Hour)
	default:
		return fmt.Sprintf("in about %d min", max(1, d/time.Minute))
	}
}
