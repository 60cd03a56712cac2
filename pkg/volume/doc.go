// Package volume is the heart of the driver: it publishes a pod's volume,
// keeps it fresh in place, takes it away, and goes on after a restart.
//
// There is one pipeline (class, provider, tmpfs, files, record, due time).
// A publish runs it with the mount, a refresh without; whoever asks for a
// refresh (the due time, kubelet's republish, an edit of the class) asks the
// Scheduler, so that one volume is never worked on twice at once.
package volume
