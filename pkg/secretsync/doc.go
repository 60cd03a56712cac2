// Package secretsync writes the Kubernetes Secrets that classes ask for under
// secretObjects, from files which a volume of the class has.
//
// It is told of each complete payload before the publish of the volume returns,
// so that env and imagePullSecrets of the same pod work at its first start. It
// has no right to read a Secret, and needs none:
//
//  1. A look is a server-side apply of nothing as a dry run. The answer is the
//     metadata of the Secret as it is, without its data.
//  2. A Secret which this class's field manager has not applied has
//     another owner, and is left alone. One with the same digest is left alone too, and so
//     is one that was made from a later read of the store or a later class.
//  3. Else it is applied, at the resourceVersion of the look and without force. If
//     another client wrote it in between, all of that begins again.
//
// So all nodes and pods of a class make one write for a change, and none while
// nothing changes. What was written is remembered: a refresh that changed nothing
// makes no request.
package secretsync
