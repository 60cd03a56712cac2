// Package session is the engine of the in-process providers. It logs in once for the
// volumes of one identity, reads once for all of them, renews the credentials of a volume
// as long as the volume lives, and revokes them with the volume. It does not depend on a
// store. A store implements:
//
//   - Store: reads a class into a Spec, distinguishes identities, picks the files' values
//     out of an Answer, and opens a Session for one run.
//   - Session: logs in, reads, issues and revokes. If the store can renew, look up or
//     report versions, the Session has the methods of Renewer, Verifier, Checker or
//     Preparer.
//
// The engine's types:
//
//	Engine       the volumes and identities of this node
//	volume       one volume: its turn; its current identity, and the superseded one until
//	             the first answer to the current one; what must be revoked with it
//	group        the volumes of one Identity: its token, and the answers that they share
//	cache.Cache  the last answers of a volume or group, and the time of the last refusal
//	             of each
//	credentials  what was issued for one volume, or for one identity with credentialScope
//	             serviceAccount, and the tokens of the leases
//	run          one Fetch of one volume, with
//	  logins     its tokens,
//	  reader     its shared reads, and
//	  issuer     its credentials
//	Conn         the requests of one run, to the addresses of its login
//
// Read Engine.Fetch and run.obtain for one Fetch, issuer.advance for a credential, and
// Engine.Release for the end of a volume. The rules of time are in timing.go. state.go
// writes the state for the next process, and restore.go reads it.
//
// The clock and the random numbers come with the operator's settings.
package session
