package akeyless

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// identityKey is who asks, as far as the store can tell. Volumes with the same
// key are answered alike, so they share a login and reads.
type identityKey struct {
	Login             login
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	// Pod is the pod's UID where the store may tell pods apart.
	Pod string `json:",omitempty"`
	// Credential is a keyed hash of the access key or the like.
	Credential string `json:",omitempty"`
}

// identify makes the key of a bearer's identity.
func (p *Provider) identify(l login, b bearer) identityKey {
	key := identityKey{Login: l, Namespace: b.pod.Namespace, ServiceAccount: b.pod.ServiceAccount}
	if !l.Type.asPod() {
		key.Credential = p.keyed(b.given.Reveal())
		if l.Sharing == sharePod {
			key.Pod = b.pod.UID
		}
		return key
	}
	key.ServiceAccountUID = b.tokens[l.Audience].Claims.ServiceAccountUID
	shared := l.Sharing == shareServiceAccount || (l.Sharing == "" && (p.config.ShareByServiceAccount || !l.Type.seesPod()))
	if !shared || key.ServiceAccountUID == "" {
		key.Pod = b.pod.UID
	}
	return key
}

// keyed is a hash that nobody can make without the key.
func (p *Provider) keyed(parts ...string) string {
	mac := hmac.New(sha256.New, p.config.IdentityKey.Reveal())
	for _, part := range parts {
		var size [8]byte
		for i := range size {
			size[i] = byte(len(part) >> (8 * i))
		}
		mac.Write(size[:])
		mac.Write([]byte(part))
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// group is the volumes of one identity.
type group struct {
	key       identityKey
	login     session.Login[*token]
	logins    singleflight.Group[struct{}, *token]
	reads     singleflight.Group[string, map[string]*reading]
	described singleflight.Group[string, *description]
	recent    *session.Answers[*reading]
	// holder has the credentials of scope serviceAccount.
	holder *holder
	// opaque are the items that the identity may read but not describe.
	opaque session.Memory[string, struct{}]
}

// groups holds the identities that this node has volumes of.
type groups struct {
	session.Groups[identityKey, group]
	budget *budget.Budget
}

func (s *groups) join(key identityKey, volume string) *group {
	return s.Join(key, volume, func(key identityKey) *group {
		owner := budget.Owner{Namespace: key.Namespace}
		return &group{key: key, holder: newHolder(s.budget, owner), recent: session.NewAnswers[*reading](s.budget, owner)}
	})
}

// leave ends the membership. The last to leave gets the credentials of the
// whole group, to end them.
func (s *groups) leave(g *group, volume string) []*minted {
	if g == nil || !s.Leave(g.key, g, volume) {
		return nil
	}
	g.recent.Close()
	return g.holder.takeAll()
}
