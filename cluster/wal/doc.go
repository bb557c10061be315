// Package wal is a write-ahead log in files: numbered entries, appended, read,
// and cut at either end. It promises that what Append returned from survives a
// crash at any moment, with one flush of the disk for each call, that what was
// being appended in a crash is there whole or not at all, and that damage to
// what had been appended is an error and never a shorter log. It refuses to
// know what an entry means.
//
//	log.go      append, read, cut       record.go   what stands in a file
//	open.go     from files to a log     segment.go  one file
//	files.go    the disk
//
// # Files
//
// A segment is a file of records, SEQUENCE-FIRST.wal by its own number and its
// first entry's. One that begins at or before the end of those before it cuts
// them there; one whose name ends in -fresh.wal begins the log, whatever they
// hold. A segment counts once its first flush is whole, so a cut and what is
// appended behind it are one step.
//
// The records of one Append carry the number of their flush, which only rises.
// What an interrupted or failed one left behind is followed by a higher number,
// or by nothing. A later flush behind something invalid means that the disk has
// lost what it once kept.
//
// Files grow by a megabyte of zeros at a time, so that most flushes overwrite
// what is there: the file system then has nothing of its own to write.
package wal
