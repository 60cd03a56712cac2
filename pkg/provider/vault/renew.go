package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// RenewToken implements session.Renewer.
func (s *vaultSession) RenewToken(ctx context.Context, t *session.Token) (time.Duration, error) {
	reply, err := s.conn.keep(ctx, t, endpoint.OpRenew, "auth/token/renew-self", "", nil)
	if err != nil {
		return 0, fmt.Errorf("renewing the Vault token: %w", err)
	}
	var body struct {
		Auth *authInfo `json:"auth"`
	}
	empty := len(bytes.TrimSpace(reply.Body)) == 0 // as with status 204
	err = json.Unmarshal(reply.Body, &body)
	if empty || err == nil && body.Auth == nil {
		return 0, fault.New(fault.Rejected, "renewing the Vault token: the answer of %s renews none", s.conn.login.Address)
	}
	if err != nil {
		return 0, fault.New(fault.BadAnswer, "renewing the Vault token: the answer of %s is not that of a renewal", s.conn.login.Address)
	}
	return body.Auth.ttl(), nil
}

// KnowsToken implements session.Verifier.
func (s *vaultSession) KnowsToken(ctx context.Context, t *session.Token) bool {
	reply, err := s.conn.look(ctx, t, pathLookupSelf)
	if err != nil {
		return false
	}
	defer reply.Release()
	return isOwnAnswer(pathLookupSelf, reply.Body)
}

// KnowsLease implements session.Renewer. Vault does not know the lease if its token was
// revoked. If the policy forbids the request, the lease counts as known.
func (s *vaultSession) KnowsLease(ctx context.Context, t *session.Token, a *session.Answer) (bool, error) {
	_, err := s.conn.keep(ctx, t, endpoint.OpCheck, "sys/leases/lookup", "", map[string]any{"lease_id": a.LeaseID})
	switch reason := fault.Of(err); {
	case err == nil:
	case reason == fault.Rejected, reason == fault.NotFound, reason == fault.Denied && strings.Contains(err.Error(), wordsInvalidToken):
		s.conn.Logger.Debug("a lease is not known any more, so it is replaced", logkey.Lease, a.LeaseID, logkey.Error, err)
		return false, nil
	case reason == fault.Denied:
	default:
		return false, fmt.Errorf("looking up lease %q: %w", a.LeaseID, err)
	}
	return true, nil
}

// RenewLease implements session.Renewer.
func (s *vaultSession) RenewLease(ctx context.Context, t *session.Token, a *session.Answer) (time.Duration, error) {
	reply, err := s.conn.keep(ctx, t, endpoint.OpRenew, "sys/leases/renew", path.Dir(a.LeaseID), map[string]any{"lease_id": a.LeaseID, "increment": int64(a.Duration.Seconds())})
	if err != nil {
		return 0, fmt.Errorf("renewing lease %q: %w", a.LeaseID, err)
	}
	var e struct {
		LeaseID       string      `json:"lease_id"`
		LeaseDuration json.Number `json:"lease_duration"`
	}
	none := fault.New(fault.Rejected, "renewing lease %q: the answer of %s renews none", a.LeaseID, s.conn.login.Address)
	if len(bytes.TrimSpace(reply.Body)) == 0 {
		return 0, none // 204
	}
	if json.Unmarshal(reply.Body, &e) != nil {
		return 0, fault.New(fault.BadAnswer, "renewing lease %q: the answer of %s is not that of a renewal", a.LeaseID, s.conn.login.Address)
	}
	seconds, _ := e.LeaseDuration.Float64()
	if e.LeaseID == "" || seconds <= 0 {
		return 0, none
	}
	return seconds2duration(seconds), nil
}

// Revoke implements session.Session. A token that Vault refuses is invalid already. One
// that cannot be revoked, such as a batch token, ends at its TTL.
func (s *vaultSession) Revoke(ctx context.Context, r session.Revocation, _ func(context.Context, bool) (*session.Token, error)) error {
	err := s.conn.revokeSelf(ctx, r.Token)
	switch fault.Of(err) {
	case fault.Denied:
		if known := s.unrevoked.Has(s.conn.login); !known {
			s.unrevoked.Set(s.conn.login, struct{}{})
			to := s.conn.Caller.Login.Access()
			s.conn.Logger.Warn("Vault did not let a pod's token revoke itself, so what hangs on it lives until its time to live; the token may be over already, or its policies lack update on auth/token/revoke-self, which the default policy has",
				logkey.Address, to.Address, logkey.Namespace, to.Namespace, logkey.Mount, to.Mount, logkey.Role, to.Role)
		}
		return nil
	case fault.NotFound, fault.Rejected:
		return nil
	}
	return err
}
