// Package staging takes in the files of providers that can only write them. It
// gives such a provider a private tmpfs to write to, and reads back what lies
// there as what it is: the work of a process that need not be right or mean
// well.
package staging
