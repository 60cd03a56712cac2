// Package staging reads the files of providers that can only write them. It gives such a provider a
// private tmpfs to write to, and reads the files back without trusting the process that wrote them.
package staging
