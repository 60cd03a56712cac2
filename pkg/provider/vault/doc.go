// Package vault is the provider for HashiCorp Vault and for OpenBao. It runs
// inside the driver, logs in as the pod with the service account token that
// kubelet passed, and reads what the class asks for.
//
// The engine of package session calls it: Provider is its Store, and
// vaultSession its Session for one run over one volume, which asks through a conn.
// What is Vault's own:
//
//	spec, objects, params   the class's parameters, parsed once per edit of the class
//	request                 one request of a class, and what a policy must grant for it
//	client, judge, words    requests, redirects to the active node, and what answers mean
//	login                   what the pod sends, and what the answer proves of it
//	read                    a request, its answer, and hints for what fails
//	kv                      KV version 2: its paths, and versions without reading
//	classify                of which kind an answer is, and for how long it is good
//	renew                   tokens and leases: renewed, looked up, revoked
//	answer                  the values picked out of the answers
//	try                     what a class needs of Vault, and whether a pod has it
//
// # What is shared
//
// Volumes of one identity share a login and reads: same server and TLS
// settings, Vault namespace, auth mount, role, audience, pod namespace,
// service account and its UID. The kubernetes auth method proves in the
// answer to a login that it went by the service account, by naming its UID.
// Of other methods this is not known, so each pod logs in by itself unless the
// class says sessionSharing: serviceAccount. Where the pod's name or UID shows
// in the login's metadata nothing is shared, whatever the class says, and
// sessionSharing: pod never shares.
//
// # Lifetimes
//
// Leases and the Vault tokens that they hang on are renewed at two thirds of
// their life. When that gives less than nine tenths of what was asked for, or
// is refused, new credentials are made while the old still work, and replace
// them in one payload. The old lease is not revoked then, because a program
// may not have read the new file yet: it is not renewed either, so it ends by
// itself, or with the volume. Certificates are made anew at two thirds, static
// roles are read again when the store said that they change and at the class's
// interval, and the rest is polled at the interval. What a POST or PUT makes
// without a lifetime is made once. Request.Fresh reads what is polled, makes
// again what has no lifetime, and no other credential that is not due.
//
// Leased credentials hang on a login of the volume's own, or of the identity's
// with credentialScope serviceAccount, so that Release ends them, and nothing
// else, by revoking that token.
//
// # Environment
//
// Nothing of the process's environment is used but the proxy settings
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY. In particular there is no ambient Vault
// token: every request is made with one that the pod's own login gave.
package vault
