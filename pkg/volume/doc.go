// Package volume publishes the volumes of pods, refreshes their files in place,
// unpublishes them, and continues after a restart.
//
// A Volume is one volume, and the Manager has the table of all. There is one
// pipeline from the class to the files: a publish runs it with the mount, a
// refresh without. The due time, a republish by kubelet and an edit of the class
// all ask the Scheduler for a refresh, and a volume has one worker at a time.
package volume
