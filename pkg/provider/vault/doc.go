// Package vault is the provider for HashiCorp Vault and OpenBao. It runs in the driver's
// process, logs in as the pod with the service account token that kubelet passed, and reads
// the objects of the class.
//
// The engine of package session calls it: Provider is its Store, and vaultSession its
// Session for one run, which sends requests through a conn: session.Conn with the store's own
// form of a request. Its files:
//
//	spec, objects, params   the class's parameters, parsed once per edit of the class
//	request                 one request of a class
//	needs, try              the rights that a class needs, and whether a pod has them
//	client, judge, words    requests, redirects to the active node, the meaning of answers
//	login, token            the login request, and what the answer proves
//	read                    a read, its answer, and hints for failures
//	kv                      KV version 2: its paths, and checks of versions
//	classify                the kind of an answer, and its lifetime
//	renew                   tokens and leases: renew, look up, revoke
//	answer, bare            the values of the answers, also of those without Vault's envelope
//
// # Sharing
//
// Volumes of one identity share a login and reads. The identity is: server and TLS settings,
// Vault namespace, auth mount, role, audience, pod namespace, service account and its UID.
// The kubernetes auth method proves with the service account's UID in its answer that the
// login is for the service account. Other methods prove nothing, so each pod logs in by
// itself, unless the class says sessionSharing: serviceAccount. If the pod's name or UID is
// in the login's metadata, nothing is shared, whatever the class says. sessionSharing: pod
// never shares.
//
// # Lifetimes
//
// Leases and their Vault tokens are renewed after two thirds of their lifetime. If Vault
// grants less than nine tenths of what was requested, or refuses, the provider requests new
// credentials while the old ones are valid, and replaces them in one payload. It does not
// revoke the old lease then, because a program may not have read the new file yet, and does
// not renew it either, so it ends at its TTL or with the volume. Certificates are issued
// again after two thirds. Static roles are read again when they change and at the class's
// interval, and all else at the interval. A POST or PUT without a lifetime in its answer is
// sent once. Request.Fresh reads polled objects, sends requests without a lifetime again, and
// replaces no other credential that is not due.
//
// Leased credentials belong to a login of the volume's own, or of the identity's with
// credentialScope serviceAccount. Release revokes that token, which ends these credentials
// and nothing else.
//
// # Environment
//
// Of the process's environment only the proxy settings HTTPS_PROXY, HTTP_PROXY and NO_PROXY
// are used. There is no ambient Vault token: every request has one from the pod's own login.
package vault
