// Package session is the engine of the in-process providers: it logs in once
// for the volumes of one identity, reads once for all of them, keeps what it
// issues for a volume alive as long as the volume, and revokes it with the
// volume. It knows no store. A store gives it three things:
//
//   - Store: reads a class into a Spec, tells identities apart, and opens a
//     Session for one run over one volume.
//   - Session: logs in, reads, issues and revokes, and nothing else. Where the
//     store can renew, look up, or tell versions, the Session says so by having
//     the methods of Renewer, Verifier, Checker or Preparer.
//   - The values in an Answer, which only the store can pick files from.
//
// What the engine holds:
//
//	Engine       the volumes and identities of this node
//	volume       one volume: whose turn it is; its identity now, and the
//	             superseded one until the new one is answered; what is to be
//	             revoked with it
//	group        the volumes of one Identity: its token, and what they read
//	cache        the last answers of a volume or group, and when the store last
//	             refused each
//	credentials  what was issued for one volume, or for one identity with
//	             credentialScope serviceAccount, and the tokens that leases hang on
//	run          one Fetch of one volume, with
//	  logins     its tokens,
//	  reader     what is read for all volumes of its group, and
//	  issuer     what is issued for it alone
//
// The way of one Fetch is told by Engine.Fetch and run.obtain; what is done for
// a credential by issuer.advance; what ends with a volume by Engine.Release.
// The rules of time are in timing.go. What outlives the process is written in
// state.go and read in restore.go.
//
// Nothing here reads a clock or rolls dice by itself: both come with the
// operator's settings.
package session
