// Package plugin has the Secrets Store providers that run as pods of their own
// (AWS, Azure, GCP, Conjur, Infisical and others) fetch a volume's payload. It
// is the client of their protocol, v1alpha1.CSIDriverProvider over a unix
// socket, package v1alpha1.
//
// A provider is whoever serves <name>.sock in one of the directories; sockets
// are looked for at each call, so providers may come, go and restart at any
// time. A provider is not trusted to work: it may hang, die half-way or answer
// nonsense, and that fails the call at hand, with the provider's name in the
// error, and nothing else.
//
// What a provider sends with an error may repeat what it was sent. So no text
// of a provider's leaves this package before the pod's service account tokens
// and the secrets of its nodePublishSecretRef have been taken out of it.
//
// The protocol has no word on timing, leases or release: a volume is asked for
// anew at each interval, and nothing is held for it in between.
package plugin
