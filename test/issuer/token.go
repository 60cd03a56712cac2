package issuer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// csiTokenLifetime is kubelet's default for a CSIDriver object without an expiration.
const csiTokenLifetime = time.Hour

// PodRef names a pod and the claims of its tokens. An empty UID is derived from the names, the same
// each time. Without Pod the token is the service account's alone; without Node it names no node.
type PodRef struct {
	Namespace, Pod, PodUID            string
	ServiceAccount, ServiceAccountUID string
	Node                              string
}

func (p PodRef) withUIDs() PodRef {
	if p.PodUID == "" && p.Pod != "" {
		p.PodUID = derivedUID("pod", p.Namespace, p.Pod)
	}
	if p.ServiceAccountUID == "" {
		p.ServiceAccountUID = derivedUID("serviceaccount", p.Namespace, p.ServiceAccount)
	}
	return p
}

// boundClaims is the private part of a Kubernetes service account token.
type boundClaims struct {
	// Audience is here because Kubernetes always writes a list, where
	// jwt.Claims writes a single audience as a string.
	Audience   []string `json:"aud"`
	Kubernetes struct {
		Namespace      string     `json:"namespace,omitempty"`
		Node           *objectRef `json:"node,omitempty"`
		Pod            *objectRef `json:"pod,omitempty"`
		ServiceAccount objectRef  `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

type objectRef struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

func claimsOf(p PodRef, audience string) boundClaims {
	c := boundClaims{Audience: []string{audience}}
	c.Kubernetes.Namespace = p.Namespace
	c.Kubernetes.ServiceAccount = objectRef{p.ServiceAccount, p.ServiceAccountUID}
	if p.Pod != "" {
		c.Kubernetes.Pod = &objectRef{p.Pod, p.PodUID}
	}
	if p.Node != "" {
		c.Kubernetes.Node = &objectRef{p.Node, derivedUID("node", p.Node)}
	}
	return c
}

// Issue makes a token as the TokenRequest API would, and returns its expiry. An empty audience means
// the API server's own. A negative ttl makes a token that expired that long ago, an hour after it
// was issued.
func (i *Issuer) Issue(pod PodRef, audience string, ttl time.Duration) (token string, exp time.Time) {
	if audience == "" {
		audience = i.url
	}
	pod = pod.withUIDs()
	issued := i.now().Truncate(time.Second)
	exp = issued.Add(ttl)
	if ttl < 0 {
		issued = exp.Add(-time.Hour)
	}
	token, err := jwt.Signed(i.signer).Claims(jwt.Claims{
		Issuer:    i.url,
		Subject:   userName(pod.Namespace, pod.ServiceAccount),
		Expiry:    jwt.NewNumericDate(exp),
		IssuedAt:  jwt.NewNumericDate(issued),
		NotBefore: jwt.NewNumericDate(issued),
		ID:        randomUID(),
	}).Claims(claimsOf(pod, audience)).Serialize()
	if err != nil {
		// The issuer made the key and the claims are plain data, so this is a bug.
		panic(fmt.Sprintf("issuer: signing a token: %v", err))
	}
	return token, exp
}

// CSITokens is the JSON that kubelet passes to a CSI driver under
// csi.storage.k8s.io/serviceAccount.tokens: a token, good for an hour, for each
// audience.
func (i *Issuer) CSITokens(pod PodRef, audiences ...string) string {
	return i.CSITokensFor(csiTokenLifetime, pod, audiences...)
}

// CSITokensFor is CSITokens with a lifetime, which has the same rules as in Issue.
func (i *Issuer) CSITokensFor(ttl time.Duration, pod PodRef, audiences ...string) string {
	tokens := make(map[string]authv1.TokenRequestStatus, len(audiences))
	for _, audience := range audiences {
		token, exp := i.Issue(pod, audience, ttl)
		tokens[audience] = authv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(exp)}
	}
	data, err := json.Marshal(tokens)
	if err != nil {
		panic(fmt.Sprintf("issuer: encoding tokens: %v", err))
	}
	return string(data)
}

func userName(namespace, serviceAccount string) string {
	return "system:serviceaccount:" + namespace + ":" + serviceAccount
}

func derivedUID(parts ...string) string {
	return formatUID(sha256.Sum256(fmt.Appendf(nil, "%q", parts)))
}

func randomUID() string {
	var b [sha256.Size]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return formatUID(b)
}

// formatUID writes the first 16 bytes as a version 4 UUID.
func formatUID(b [sha256.Size]byte) string {
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
