// Package secretsync writes the Kubernetes Secrets of classes with secretObjects, from files
// of the volumes.
//
// It is called with each complete payload before the publish of the volume returns, so that
// env and imagePullSecrets of the same pod work at its first start. It has no right to read
// a Secret:
//
//  1. Look: it applies nothing, as a dry run. The answer is the metadata of the Secret,
//     without its data.
//  2. If another field manager than this class's has applied the Secret, it has another
//     owner, and stays unchanged. It also stays unchanged if it has the same digest, or if
//     it is of a later read of the store or a later version of the class.
//  3. Otherwise it is applied, with the resourceVersion of the look and without force. If
//     another client has written it in between, all of that begins again.
//
// So all nodes and pods of a class make one write for a change, and none while nothing
// changes. The driver remembers what was written: a refresh that changed nothing sends no
// request.
package secretsync
