// Package akeyless is the provider for Akeyless. It runs in the driver's process, logs in as
// the pod with the service account token that kubelet passed (or with the credential of the
// pod's nodePublishSecretRef), and reads the objects of the class.
//
// The engine of package session calls it: Provider is its Store, and akeylessSession its
// Session for one run, which sends requests through a conn: session.Conn with the store's own
// form of a request. Its files:
//
//	spec, objects, params   the class's parameters, parsed once per edit of the class
//	item, arguments         one item of a class, and what it is asked for with
//	needs, try              what a class needs of Akeyless, and whether a pod has it
//	client, refusal         requests, and what answers mean
//	login, cloud, aws       tokens, by the pod's identity or one that a cloud gives for it
//	describe                of which type an item is, and whether it has changed
//	read                    static secrets in one request, the others one by one
//	issue, csr              dynamic secrets and PKI certificates
//	value                   the values picked out of the answers
//
// The client uses net/http and not the generated akeyless-go. It needs eight calls with
// small JSON objects. The generated types refuse answers that differ from their description
// (such as JSON secrets), and their errors do not give access to the store's text. It would
// add 0.9 MB to the binary.
//
// Of the process's environment only HTTPS_PROXY, HTTP_PROXY and NO_PROXY are used. There is
// no ambient identity: a pod never gets a node's cloud role or an access key from the
// driver's environment.
package akeyless
