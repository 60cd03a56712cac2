// Package akeyless is the provider for Akeyless. It runs inside the driver,
// logs in as the pod with the service account token that kubelet passed (or
// with the credential of the pod's nodePublishSecretRef), and reads what the
// class asks for.
//
// The way of one Fetch:
//
//	spec    the class's parameters, parsed once per edit of the class
//	group   the login of one identity, and the recent answers to it
//	volume  what one volume holds: answers, and credentials made for it alone
//	sort    which items are due, and what kind each is
//	read    static secrets in one request, the others one by one, in parallel
//	mint    dynamic secrets and PKI certificates: made once, replaced at two
//	        thirds of their life, ended when the volume is released
//	files   the values picked out of the answers
//
// The client is a page of net/http rather than the generated akeyless-go: the
// eight calls that are needed take and give small JSON objects, the generated
// types refuse answers that differ from their description (JSON secrets among
// them), and its errors keep the store's words out of reach. It would add
// 0.9 MB to the binary and nothing else.
//
// Nothing of the process's environment is used but HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY. There is no ambient identity: a node's cloud role or an access key
// in the driver's environment is never a pod's.
package akeyless
