// Package session has what every provider needs that shares logins and reads
// between volumes and outlives the store's outages: work done once for all who
// want it, a circuit breaker, pauses between retries, and the rules for when
// something with a lifetime is to be had anew.
//
// Nothing here knows a store, and nothing reads a clock or rolls dice by
// itself: callers pass the moment, and chance as a number from 0 to 1.
package session
