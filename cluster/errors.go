package cluster

import (
	"errors"
	"fmt"
	"net/http"
)

// Code classifies an error for the one who has to act on it. Codes cross the
// wire, error values do not.
type Code string

// The codes. Each has one HTTP status, see Status.
const (
	Invalid      Code = "invalid"      // the request is wrong and will stay wrong
	Unauthorized Code = "unauthorized" // nobody is signed in
	Forbidden    Code = "forbidden"    // signed in, but not theirs
	NotFound     Code = "not_found"    // no such thing, or not theirs to know
	Conflict     Code = "conflict"     // something else is there already
	TooLarge     Code = "too_large"    // over a size limit
	Quota        Code = "quota"        // over a limit of this user or of the queue
	Stale        Code = "stale"        // the caller's lease or view is out of date
	Unavailable  Code = "unavailable"  // cannot be done now; trying again may help
	NoSpace      Code = "no_space"     // the disk is too full
	NoLeader     Code = "no_leader"    // no node can commit at present
	Internal     Code = "internal"     // a defect of ours
)

// Status is the HTTP status of a code, at every edge.
func (c Code) Status() int {
	switch c {
	case "":
		return http.StatusOK
	case Invalid:
		return http.StatusBadRequest
	case Unauthorized:
		return http.StatusUnauthorized
	case Forbidden:
		return http.StatusForbidden
	case NotFound:
		return http.StatusNotFound
	case Conflict, Stale:
		return http.StatusConflict
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case Quota:
		return http.StatusTooManyRequests
	case NoSpace:
		return http.StatusInsufficientStorage
	case Unavailable, NoLeader:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Error is a code with a sentence for people. Message is complete and safe to
// show: what failed, for whom, what to do next.
type Error struct {
	Code    Code   `json:"code" cbor:"1,keyasint"`
	Message string `json:"message" cbor:"2,keyasint"`
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is(err, &Error{Code: c}) match on the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// Errorf makes an Error.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first Error in err's chain, Internal for any
// other error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// MessageOf is what may be shown to a participant: the sentence of the first
// Error in the chain, or a neutral one when the error was never meant for them.
func MessageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "Something went wrong inside the workshop's server. Tell the instructor the time and what you did."
}
