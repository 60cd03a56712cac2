// Package akeyless is the provider for Akeyless. It runs inside the driver,
// logs in as the pod with the service account token that kubelet passed (or
// with the credential of the pod's nodePublishSecretRef), and reads what the
// class asks for.
//
// The engine of package session calls it: Provider is its Store, and
// akeylessSession its Session for one run over one volume, which asks through a
// conn. What is Akeyless' own:
//
//	spec, objects, params   the class's parameters, parsed once per edit of the class
//	item, arguments         one item of a class, and what it is asked for with
//	client                  requests, and what answers mean
//	login, cloud, aws       tokens, by the pod's identity or one that a cloud gives for it
//	describe                of which type an item is, and whether it has changed
//	read                    static secrets in one request, the others one by one
//	issue, csr              dynamic secrets and PKI certificates
//	value                   the values picked out of the answers
//	try                     what a class needs of Akeyless, and whether a pod has it
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
