// Package jobs is the table of work: every prompt that was accepted, where it
// stands, and which worker may report on it. It promises that only the
// transitions below happen and that a report under a lease that never was, or is
// long past, changes nothing. It refuses to know the clock, the disk or the
// scheduling policy.
//
//	          submit, adopt
//	            |
//	held <-> pending --assign--> assigned --started--> running --gpu done--> storing
//	            ^                   |                     |                     |
//	            +----- requeue -----+----- requeue -------+----- requeue -------+
//	            |                   |                     |                     |
//	            |                   +--- cancel --> cancelling --finish--> cancelled
//	            +--- cancel --> cancelled                 |
//	                                               finish v
//	   held, pending, assigned --late finish--> done | failed | cancelled
//
// A job's epoch rises with each assignment and is the fence. Attempts that were
// given up are remembered: a result of one is late, and still the job's while no
// newer attempt has started. After that it is an orphan: kept for a day, shown to
// nobody. Strikes rise only when the job may be the cause of a lost attempt; each
// delays the next one and the third fails the job.
package jobs
