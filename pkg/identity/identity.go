// Package identity describes the pod that asks for secrets, and the service account tokens that
// kubelet passed for it.
package identity

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// The keys of NodePublishVolume's volume_context that kubelet writes, beside the pod author's
// volumeAttributes, of which ClassKey is one.
const (
	ClassKey          = "secretProviderClass"
	PodNameKey        = "csi.storage.k8s.io/pod.name"
	PodNamespaceKey   = "csi.storage.k8s.io/pod.namespace"
	PodUIDKey         = "csi.storage.k8s.io/pod.uid"
	ServiceAccountKey = "csi.storage.k8s.io/serviceAccount.name"
	EphemeralKey      = "csi.storage.k8s.io/ephemeral"
)

// TokensKey is the key of the tokens: in NodePublishVolume's secrets (Kubernetes 1.35 with
// serviceAccountTokenInSecrets) or in its volume_context.
const TokensKey = "csi.storage.k8s.io/serviceAccount.tokens" //nolint:gosec // a key, not a credential

// Pod is the pod that a volume belongs to, as kubelet named it.
type Pod struct {
	Namespace      string
	Name           string
	UID            string
	ServiceAccount string
}

// String is namespace/name, as people write it.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Token is one service account token.
type Token struct {
	JWT     secret.String
	Expires time.Time
	// Claims are read from the JWT without verifying it: the store verifies it.
	Claims Claims
}

// Claims are the claims of a bound service account token. They are empty if Kubernetes did not make
// the token, or it is not a JWT.
type Claims struct {
	ID                string // jti: found in Kubernetes' audit log and in the store's
	ServiceAccountUID string
	PodUID            string
}

// AudienceClaims are the claims of the token for one audience.
type AudienceClaims struct {
	Audience string
	Claims
}

// Tokens are a pod's service account tokens by audience.
type Tokens map[string]Token

// Plain holds tokens in the form that kubelet writes, {"<audience>":
// {"token":"...","expirationTimestamp":"<RFC 3339>"}}, as readable text. Only provider plugins and
// the state directory may receive it.
type Plain map[string]PlainToken

// Format implements fmt.Formatter for every verb and flag.
func (Plain) Format(f fmt.State, verb rune) { secret.String{}.Format(f, verb) }

// LogValue implements slog.LogValuer.
func (Plain) LogValue() slog.Value { return secret.String{}.LogValue() }

// PlainToken is one token of Plain. Its expiry may be absent.
type PlainToken struct {
	Token   string `json:"token"`
	Expires string `json:"expirationTimestamp,omitempty"`
}

// ParseTokens reads kubelet's JSON. An empty text means no tokens. Its errors never quote the text.
func ParseTokens(text string) (Tokens, error) {
	if text == "" {
		return nil, nil
	}
	var p Plain
	if json.Unmarshal([]byte(text), &p) != nil {
		return nil, fault.New(fault.InvalidArgument, "%s: not the JSON object of audiences that kubelet sends", TokensKey)
	}
	return p.Tokens()
}

// Tokens parses the expiry of each token. Its errors never quote a token.
func (p Plain) Tokens() (Tokens, error) {
	if p == nil {
		return nil, nil
	}
	tokens := make(Tokens, len(p))
	for audience, t := range p {
		if t.Token == "" {
			return nil, fault.New(fault.InvalidArgument, "%s: the token for audience %q is empty", TokensKey, audience)
		}
		expires, err := parseExpiry(t.Expires)
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "%s: the expirationTimestamp for audience %q is not RFC 3339", TokensKey, audience)
		}
		tokens[audience] = Token{secret.NewString(t.Token), expires, parseClaims(t.Token)}
	}
	return tokens, nil
}

// parseExpiry returns the zero time for an absent expiry.
func parseExpiry(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, text)
}

func parseClaims(jwt string) Claims {
	var c struct {
		ID         string `json:"jti"`
		Kubernetes struct {
			Pod            struct{ UID string } `json:"pod"`
			ServiceAccount struct{ UID string } `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return Claims{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return Claims{}
	}
	return Claims{ID: c.ID, ServiceAccountUID: c.Kubernetes.ServiceAccount.UID, PodUID: c.Kubernetes.Pod.UID}
}

// APIServer is what classes call the API server's own audience. A CSIDriver object asks for it with
// an empty audience.
const APIServer = "apiserver"

// For finds the token for an audience that is valid at now. Its error says what the CSIDriver
// object must list.
func (t Tokens) For(audience string, now time.Time) (Token, error) {
	token, ok := t[audience]
	if !ok && audience == APIServer {
		if token, ok = t[""]; !ok {
			return Token{}, fault.New(fault.NoToken, "no service account token for the API server's own audience: %s", t.have()).
				WithHint("add {audience: \"\"} to spec.tokenRequests of the CSIDriver object (the chart's tokenRequests)")
		}
	}
	if !ok {
		return Token{}, fault.New(fault.NoToken, "no service account token for audience %q: %s", audience, t.have()).
			WithHint("add {audience: %q} to spec.tokenRequests of the CSIDriver object (the chart's tokenRequests), or set the class's audience to one that is listed", audience)
	}
	if !token.Expires.IsZero() && !now.Before(token.Expires) {
		return Token{}, fault.New(fault.NoToken, "the service account token for audience %q expired at %s", audience, token.Expires.Format(time.RFC3339)).
			WithHint("kubelet passes a new one when it republishes: spec.requiresRepublish of the CSIDriver object must be true")
	}
	return token, nil
}

func (t Tokens) have() string {
	if len(t) == 0 {
		return "kubelet passed none"
	}
	return fmt.Sprintf("kubelet passed %q", slices.Sorted(maps.Keys(t)))
}

// Claims are the claims of all tokens, in the order of their audiences, without the tokens
// themselves.
func (t Tokens) Claims() []AudienceClaims {
	out := make([]AudienceClaims, 0, len(t))
	for audience, token := range t {
		out = append(out, AudienceClaims{audience, token.Claims})
	}
	slices.SortFunc(out, func(a, b AudienceClaims) int { return strings.Compare(a.Audience, b.Audience) })
	return out
}

// Equal reports whether t and o hold the same tokens.
func (t Tokens) Equal(o Tokens) bool {
	return maps.EqualFunc(t, o, func(a, b Token) bool {
		return a.JWT.Reveal() == b.JWT.Reveal() && a.Expires.Equal(b.Expires)
	})
}

// Reveal returns the tokens as kubelet writes them; nil for none.
func (t Tokens) Reveal() Plain {
	if len(t) == 0 {
		return nil
	}
	out := make(Plain, len(t))
	for audience, token := range t {
		p := PlainToken{Token: token.JWT.Reveal()}
		if !token.Expires.IsZero() {
			p.Expires = token.Expires.UTC().Format(time.RFC3339)
		}
		out[audience] = p
	}
	return out
}

// Encode writes the tokens as kubelet does, for a provider plugin. The result is as secret as the
// tokens.
func (t Tokens) Encode() secret.String {
	if len(t) == 0 {
		return secret.String{}
	}
	text, err := json.Marshal(t.Reveal())
	if err != nil { // a map of strings always marshals
		return secret.String{}
	}
	return secret.NewString(string(text))
}
