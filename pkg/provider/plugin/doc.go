// Package plugin fetches payloads from the Secrets Store providers that run as pods of their own
// (AWS, Azure, GCP, Conjur, Infisical and others). It is the client of their protocol,
// v1alpha1.CSIDriverProvider over a unix socket, package v1alpha1.
//
// A provider is the process that serves <name>.sock in one of the directories. The package looks
// for the socket at each call, so providers may come, go and restart at any time. It does not trust
// providers: one that hangs, dies half-way or answers nonsense fails the current call, with the
// provider's name in the error, and nothing else.
//
// A provider's error may repeat the request. So the package removes the pod's service account
// tokens and the secrets of its nodePublishSecretRef from every text of a provider.
//
// The protocol says nothing about timing, leases or revocation: the driver reads a volume again at
// each interval, and nothing exists for it in between.
package plugin
