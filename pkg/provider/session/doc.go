// Package session has what every provider needs that shares logins and reads
// between volumes, gives up what was made for a volume with the volume, and
// outlives the store's outages: work done once for all who want it, the
// volumes with their turns and debts, the groups of one identity with its
// login and recent answers, a circuit breaker, pauses between retries, the
// rules for when something with a lifetime is to be had anew, and the frame of
// the state that outlives the process.
//
// Nothing here knows a store, and nothing reads a clock or rolls dice by
// itself: callers pass the moment, and chance as a number from 0 to 1.
package session
