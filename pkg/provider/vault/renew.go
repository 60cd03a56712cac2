package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// wordsInvalidToken are in Vault's refusal of a token that it does not know.
	wordsInvalidToken = "invalid token"
	// wordsLastUse are in Vault's answer to one that makes a lease with the last
	// use of a token.
	wordsLastUse = "token had one use left"

	pathLookupSelf = "auth/token/lookup-self"
)

// RenewToken implements session.Renewer.
func (s *vaultSession) RenewToken(ctx context.Context, t *session.Token) (time.Duration, error) {
	k := s.conn.keepCall(t, endpoint.OpRenew, http.MethodPost, "auth/token/renew-self", []byte("{}"))
	k.renews = true
	reply, err := s.conn.do(ctx, k)
	if refusedRenewal(k, reply) {
		return 0, fault.New(fault.Rejected, "renewing the Vault token: %w", err)
	}
	if err != nil {
		return 0, fmt.Errorf("renewing the Vault token: %w", err)
	}
	var body struct {
		Auth *authInfo `json:"auth"`
	}
	empty := len(bytes.TrimSpace(reply.Body)) == 0 // as with status 204
	err = json.Unmarshal(reply.Body, &body)
	if empty || err == nil && body.Auth == nil {
		return 0, fault.New(fault.Rejected, "renewing the Vault token: the answer of %s renews none", loginOf(t.Login).target.Address)
	}
	if err != nil {
		return 0, fault.New(fault.BadAnswer, "renewing the Vault token: the answer of %s is not that of a renewal", loginOf(t.Login).target.Address)
	}
	return body.Auth.ttl(), nil
}

// KnowsToken implements session.Verifier. The default policy allows a token to
// ask.
func (s *vaultSession) KnowsToken(ctx context.Context, t *session.Token) bool {
	reply, err := s.conn.do(ctx, s.conn.call(t, http.MethodGet, pathLookupSelf, nil, nil))
	if err != nil {
		return false
	}
	defer reply.Release()
	return isOwnAnswer(pathLookupSelf, reply.Body)
}

// KnowsLease implements session.Renewer. It is not known where the Vault token
// that it hangs on was revoked. A policy that does not allow the question leaves
// the lease as it is.
func (s *vaultSession) KnowsLease(ctx context.Context, t *session.Token, a *session.Answer) (bool, error) {
	body, err := json.Marshal(map[string]string{"lease_id": a.LeaseID})
	if err != nil {
		return false, fault.New(fault.Internal, "looking up a lease: the request cannot be written")
	}
	_, err = s.conn.do(ctx, s.conn.keepCall(t, endpoint.OpCheck, http.MethodPut, "sys/leases/lookup", body))
	switch reason := fault.Of(err); {
	case err == nil:
	case reason == fault.Rejected, reason == fault.NotFound, reason == fault.Denied && strings.Contains(err.Error(), wordsInvalidToken):
		s.conn.client.config.Logger.Debug("a lease is not known any more, so it is replaced", logkey.Lease, a.LeaseID, logkey.Error, err)
		return false, nil
	case reason == fault.Denied:
	default:
		return false, fmt.Errorf("looking up lease %q: %w", a.LeaseID, err)
	}
	return true, nil
}

// RenewLease implements session.Renewer.
func (s *vaultSession) RenewLease(ctx context.Context, t *session.Token, a *session.Answer) (time.Duration, error) {
	body, err := json.Marshal(map[string]any{"lease_id": a.LeaseID, "increment": int64(a.Duration.Seconds())})
	if err != nil {
		return 0, fault.New(fault.Internal, "renewing a lease: the request cannot be written")
	}
	k := s.conn.keepCall(t, endpoint.OpRenew, http.MethodPut, "sys/leases/renew", body)
	k.renews, k.about = true, path.Dir(a.LeaseID)
	reply, err := s.conn.do(ctx, k)
	if refusedRenewal(k, reply) {
		return 0, fault.New(fault.Rejected, "renewing lease %q: %w", a.LeaseID, err)
	}
	if err != nil {
		return 0, fmt.Errorf("renewing lease %q: %w", a.LeaseID, err)
	}
	var e struct {
		LeaseID       string      `json:"lease_id"`
		LeaseDuration json.Number `json:"lease_duration"`
	}
	none := fault.New(fault.Rejected, "renewing lease %q: the answer of %s renews none", a.LeaseID, s.conn.login.target.Address)
	if len(bytes.TrimSpace(reply.Body)) == 0 {
		return 0, none // 204
	}
	if json.Unmarshal(reply.Body, &e) != nil {
		return 0, fault.New(fault.BadAnswer, "renewing lease %q: the answer of %s is not that of a renewal", a.LeaseID, s.conn.login.target.Address)
	}
	seconds, _ := e.LeaseDuration.Float64()
	if e.LeaseID == "" || seconds <= 0 {
		return 0, none
	}
	return seconds2duration(seconds), nil
}

// Revoke implements session.Session. A token that the store refuses is over
// already; one that cannot be revoked, as a batch token, ends by itself.
func (s *vaultSession) Revoke(ctx context.Context, r session.Revocation, _ func(context.Context, bool) (*session.Token, error)) error {
	err := s.conn.revokeSelf(ctx, r.Token)
	switch fault.Of(err) {
	case fault.Denied:
		if known := s.unrevoked.Has(s.conn.login); !known {
			s.unrevoked.Set(s.conn.login, struct{}{})
			s.conn.client.config.Logger.Warn("Vault did not let a pod's token revoke itself, so what hangs on it lives until its time to live; the token may be over already, or its policies lack update on auth/token/revoke-self, which the default policy has",
				logkey.Address, s.conn.login.target.Address.String(), logkey.Namespace, s.conn.login.namespace, logkey.Mount, s.conn.login.mount, logkey.Role, s.conn.login.role)
		}
		return nil
	case fault.NotFound, fault.Rejected:
		return nil
	}
	return err
}

// revokeSelf ends a token and all that hangs on it.
func (c *conn) revokeSelf(ctx context.Context, t *session.Token) error {
	_, err := c.do(ctx, call{
		endpoint: c.endpoint, operation: endpoint.OpRevoke, namespace: c.login.namespace, tenant: c.caller.Pod.Namespace, token: t.Value, method: http.MethodPost, path: "auth/token/revoke-self",
		correlation: c.caller.Correlation, secrets: []secret.String{t.Value},
	})
	if err != nil {
		return fmt.Errorf("revoking a Vault token: %w", err)
	}
	return nil
}
