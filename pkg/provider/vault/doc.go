// Package vault is the provider for HashiCorp Vault and for OpenBao. It runs
// inside the driver, logs in as the pod with the service account token that
// kubelet passed, and reads what the class asks for.
//
// The way of one Fetch:
//
//	spec      the class's parameters, parsed once per edit of the class
//	endpoint  one warm transport per server address and TLS settings
//	group     the login of one identity, and the recent answers to it
//	volume    what one volume holds: answers, leases, its own Vault token
//	plan      which of them are due, a pure rule of now
//	files     the values picked out of the answers
//
// Nothing of the process's environment is used but the proxy settings
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY. In particular there is no ambient Vault
// token: every request is made with one that the pod's own login gave.
package vault
