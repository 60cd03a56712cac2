package akeylessd

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authv1 "k8s.io/api/authentication/v1"
)

// Method is an auth method.
type Method struct {
	Type string // as in access-type
	// Key is the access key, or the universal identity token.
	Key string
	// ConfigName is the gateway's Kubernetes auth config, and Cluster the one
	// that it names; nil for the issuer.
	ConfigName string
	Cluster    *Cluster
	// Audience is the one that service account tokens must have.
	Audience string
	// CloudID checks a cloud identity, and returns its claims.
	CloudID func(id string) (map[string]string, error)
	// Life is how long tokens live; 0 means an hour. They do not say it where
	// Silent is set.
	Life   time.Duration
	Silent bool
}

// Rule lets accounts with an access ID read items.
type Rule struct {
	AccessID string
	// Prefix is the beginning of the items' names.
	Prefix string
	// Claims are those that the login must have, as in service_account_name.
	Claims map[string]string
	// NoDescribe denies descriptions of items, and NoEnd revoking dynamic credentials.
	NoDescribe bool
	NoEnd      bool
}

// session is the account and claims of a token.
type session struct {
	accessID string
	claims   map[string]string
	expires  time.Time
}

// AuthMethod adds or replaces the auth method of an access ID.
func (s *Server) AuthMethod(accessID string, m Method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.methods[accessID] = m
}

// Allow adds a rule.
func (s *Server) Allow(r Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, r)
}

// Revoke revokes all tokens, without notice to their owners.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Forbid removes all rules.
func (s *Server) Forbid() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = nil
}

var errRefused = errors.New("unauthorized: authentication failed")

func (s *Server) auth(ctx context.Context, request map[string]json.RawMessage) answer {
	id, kind := text(request, "access-id"), text(request, "access-type")
	s.mu.Lock()
	m, ok := s.methods[id]
	if kind == "universal_identity" {
		id, m, ok = s.byToken(text(request, "uid_token"))
	}
	s.mu.Unlock()
	if !ok || m.Type != kind {
		return failure(http.StatusUnauthorized, "%v", errRefused)
	}
	claims, err := s.authenticate(ctx, m, request)
	if err != nil {
		return failure(http.StatusUnauthorized, "%v", err)
	}
	return s.admit(id, m, claims)
}

func (s *Server) byToken(uid string) (string, Method, bool) {
	for id, m := range s.methods {
		if m.Type == "universal_identity" && m.Key == uid && uid != "" {
			return id, m, true
		}
	}
	return "", Method{}, false
}

func (s *Server) authenticate(ctx context.Context, m Method, request map[string]json.RawMessage) (map[string]string, error) {
	switch m.Type {
	case "access_key":
		if text(request, "access-key") != m.Key {
			return nil, errRefused
		}
		return nil, nil
	case "universal_identity":
		return nil, nil
	case "k8s":
		if text(request, "k8s-auth-config-name") != m.ConfigName || text(request, "gateway-url") == "" {
			return nil, errors.New("k8s auth config not found")
		}
		token, err := base64.StdEncoding.DecodeString(text(request, "k8s-service-account-token"))
		if err != nil {
			return nil, errors.New("k8s-service-account-token is not base64")
		}
		return s.review(ctx, m, string(token))
	case "jwt":
		return s.verify(ctx, m, text(request, "jwt"))
	}
	if m.CloudID == nil {
		return nil, errRefused
	}
	return m.CloudID(text(request, "cloud-id"))
}

// admit makes a token.
func (s *Server) admit(id string, m Method, claims map[string]string) answer {
	life := m.Life
	if life == 0 {
		life = time.Hour
	}
	token := "t-" + random(16)
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.options.Now().Add(life)
	s.tokens[token] = &session{accessID: id, claims: claims, expires: end}
	out := map[string]any{"token": token}
	if !m.Silent {
		out["creds"] = map[string]any{"token": token, "expiry": end.Unix()}
	}
	return good(out)
}

// whoAsks finds the session of a request. It is called with mu held.
func (s *Server) whoAsks(request map[string]json.RawMessage) (*session, *answer) {
	who := s.tokens[text(request, "token")]
	if who == nil || !s.options.Now().Before(who.expires) {
		refusal := failure(http.StatusUnauthorized, "Unauthorized: token is invalid or expired")
		return nil, &refusal
	}
	return who, nil
}

// rule finds a rule that lets the caller read an item, nil if there is none.
func (s *Server) rule(who *session, name string) *Rule {
	for i, r := range s.rules {
		if r.AccessID != who.accessID || !strings.HasPrefix(name, r.Prefix) {
			continue
		}
		if !slices.ContainsFunc(pairs(r.Claims), func(p [2]string) bool { return who.claims[p[0]] != p[1] }) {
			return &s.rules[i]
		}
	}
	return nil
}

func pairs(m map[string]string) [][2]string {
	var list [][2]string
	for k, v := range m {
		list = append(list, [2]string{k, v})
	}
	return list
}

// objectRef names an object in a token. The JWT library minds the case of keys.
type objectRef struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// verify checks a token with the issuer's public keys.
func (s *Server) verify(ctx context.Context, m Method, token string) (map[string]string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.options.Issuer.JWKSURL(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.reviewer.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var keys jose.JSONWebKeySet
	if err := json.NewDecoder(resp.Body).Decode(&keys); err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, errRefused
	}
	var public jwt.Claims
	var private struct {
		Kubernetes struct {
			Namespace      string    `json:"namespace"`
			ServiceAccount objectRef `json:"serviceaccount"`
			Pod            objectRef `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if err := parsed.Claims(keys, &public, &private); err != nil {
		return nil, errRefused
	}
	if err := public.Validate(jwt.Expected{AnyAudience: []string{m.Audience}, Time: s.options.Now()}); err != nil {
		return nil, fmt.Errorf("unauthorized: %w", err)
	}
	k := private.Kubernetes
	return map[string]string{
		"namespace": k.Namespace, "service_account_name": k.ServiceAccount.Name, "service_account_uid": k.ServiceAccount.UID,
		"pod_name": k.Pod.Name, "pod_uid": k.Pod.UID,
	}, nil
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Cluster is a cluster in a gateway's Kubernetes auth config: its API server's address, and the
// credential for reviewing tokens.
type Cluster struct {
	Host string
	// CA is the PEM of the API server's certificate authority; none for HTTP.
	CA            []byte
	ReviewerToken string
}

func (s *Server) cluster(m Method) *Cluster {
	if m.Cluster != nil {
		return m.Cluster
	}
	return &Cluster{Host: s.options.Issuer.URL(), ReviewerToken: s.options.Issuer.ReviewerToken()}
}

// review asks the cluster, as a gateway does for the access type k8s, and returns the claims of the
// token.
func (s *Server) review(ctx context.Context, m Method, token string) (map[string]string, error) {
	review := authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{m.Audience}}}
	review.APIVersion, review.Kind = authv1.SchemeGroupVersion.String(), "TokenReview"
	if err := s.ask(ctx, s.cluster(m), &review); err != nil {
		return nil, fmt.Errorf("reviewing the token: %w", err)
	}
	status := review.Status
	// An API server that does not know of audiences names none.
	if !status.Authenticated || !slices.Contains(status.Audiences, m.Audience) {
		return nil, fmt.Errorf("unauthorized: %s", status.Error)
	}
	parts := strings.Split(status.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" {
		return nil, errRefused
	}
	claims := map[string]string{"namespace": parts[2], "service_account_name": parts[3], "service_account_uid": status.User.UID, "config_name": m.ConfigName}
	for claim, extra := range map[string]string{"pod_name": "pod-name", "pod_uid": "pod-uid"} {
		if v := status.User.Extra["authentication.kubernetes.io/"+extra]; len(v) > 0 {
			claims[claim] = v[0]
		}
	}
	return claims, nil
}

// ask has the API server fill in the review's status.
func (s *Server) ask(ctx context.Context, c *Cluster, review *authv1.TokenReview) error {
	body, err := json.Marshal(review)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Host+"/apis/authentication.k8s.io/v1/tokenreviews", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.ReviewerToken)
	r.Header.Set("Content-Type", "application/json")
	client, err := s.client(c)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("the API server answers %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(review); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// client reuses connections only to a cluster without an authority of its own: that is the test's
// issuer, which bursts of logins use.
func (s *Server) client(c *Cluster) (*http.Client, error) {
	if len(c.CA) == 0 {
		return s.reviewer, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.CA) {
		return nil, errors.New("the cluster's CA is not PEM")
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}, nil
}
