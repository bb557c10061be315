// Package jobs is the table of work: every prompt that was accepted, where it
// stands, and which worker may report on it. It promises that only the
// transitions below happen and that a report of an old attempt changes nothing.
// It refuses to know the clock, the disk or the scheduling policy.
//
//	          submit
//	            |
//	held <-> pending --assign--> assigned --started--> running --gpu done--> storing
//	            ^                   |                     |                     |
//	            +----- requeue -----+----- requeue -------+----- requeue -------+
//	            |                   |                     |                     |
//	            |                   +--- cancel --> cancelling --finish--> cancelled
//	            +--- cancel --> cancelled                 |
//	                                               finish v
//	                                          done | failed | cancelled
//
// A job's epoch rises with each assignment and is the fence. Strikes rise only
// when the job may be the cause of a lost attempt; the third fails it.
package jobs
