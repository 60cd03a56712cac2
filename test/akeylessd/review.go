package akeylessd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authv1 "k8s.io/api/authentication/v1"
)

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
