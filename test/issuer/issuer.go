// Package issuer implements the Kubernetes API server's part for service account tokens: it makes
// tokens bound to pods, publishes its keys and answers TokenReviews, over HTTP on loopback. Stores
// under test need no other part of a cluster to let a pod log in.
package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	discoveryPath = "/.well-known/openid-configuration"
	jwksPath      = "/openid/v1/jwks"
	reviewPath    = "/apis/authentication.k8s.io/v1/tokenreviews"

	signingAlgorithm = jose.ES256
)

// Options change how an Issuer works; the zero value is ready for use.
type Options struct {
	// Now is the clock; time.Now where nil.
	Now func() time.Time
}

// Issuer is a running server. Its methods may be called concurrently.
type Issuer struct {
	url     string
	now     func() time.Time
	key     *ecdsa.PrivateKey
	keyID   string
	signer  jose.Signer
	server  *http.Server
	stopped chan error // receives the end of Serve

	reviews atomic.Int64

	mu      sync.Mutex
	deleted map[string]bool // UIDs of pods and service accounts
}

// Start makes a key and serves on a free loopback port until Close.
func Start(ctx context.Context, opts Options) (*Issuer, error) {
	i := &Issuer{now: opts.Now, deleted: map[string]bool{}, stopped: make(chan error, 1)}
	if i.now == nil {
		i.now = time.Now
	}
	if err := i.makeKey(); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	i.url = "http://" + listener.Addr().String()
	i.server = &http.Server{Handler: i.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() { i.stopped <- i.server.Serve(listener) }()
	return i, nil
}

// Close stops the server at once and waits for it.
func (i *Issuer) Close() error {
	err := i.server.Close()
	if served := <-i.stopped; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	i.stopped <- http.ErrServerClosed // so that a second Close returns too
	return err
}

// URL is the server's address, the issuer in its tokens, and the audience of
// the API server itself.
func (i *Issuer) URL() string { return i.url }

// JWKSURL is where the public keys are.
func (i *Issuer) JWKSURL() string { return i.url + jwksPath }

// Reviews counts the TokenReviews answered so far, good and bad.
func (i *Issuer) Reviews() int64 { return i.reviews.Load() }

// DeletePod makes tokens bound to this pod invalid from now on.
func (i *Issuer) DeletePod(p PodRef) { i.markDeleted(p.withUIDs().PodUID) }

// DeleteServiceAccount makes tokens of this service account invalid from now
// on. One of the same name with another UID is not affected.
func (i *Issuer) DeleteServiceAccount(p PodRef) { i.markDeleted(p.withUIDs().ServiceAccountUID) }

func (i *Issuer) markDeleted(uid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.deleted[uid] = true
}

func (i *Issuer) isDeleted(uid string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.deleted[uid]
}

func (i *Issuer) makeKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a signing key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding the public key: %w", err)
	}
	sum := sha256.Sum256(der)
	i.key, i.keyID = key, base64.RawURLEncoding.EncodeToString(sum[:])
	// As Kubernetes does, the header carries alg and kid, and no typ.
	i.signer, err = jose.NewSigner(jose.SigningKey{
		Algorithm: signingAlgorithm,
		Key:       jose.JSONWebKey{Key: key, KeyID: i.keyID},
	}, nil)
	if err != nil {
		return fmt.Errorf("making a signer: %w", err)
	}
	return nil
}

func (i *Issuer) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+discoveryPath, i.serveDiscovery)
	mux.HandleFunc("GET "+jwksPath, i.serveKeys)
	mux.HandleFunc("POST "+reviewPath, i.serveReview)
	return mux
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", map[string]any{
		"issuer":                                i.url,
		"jwks_uri":                              i.JWKSURL(),
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(signingAlgorithm)},
	})
}

func (i *Issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/jwk-set+json", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key:       i.key.Public(),
		KeyID:     i.keyID,
		Algorithm: string(signingAlgorithm),
		Use:       "sig",
	}}})
}

func writeJSON(w http.ResponseWriter, code int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	// A failed write means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(body)
}

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
