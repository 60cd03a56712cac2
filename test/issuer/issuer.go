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
