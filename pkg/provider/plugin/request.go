package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// permission is the mode 0644 in the protocol's form: JSON of the decimal.
const permission = "420"

// newRequest makes the request for the volume.
//
// The service account tokens are always among the attributes, where all providers look for them.
// They are among the secrets only if kubelet passed them there, which serviceAccountTokenInSecrets
// of Kubernetes 1.35 requests: some releases of providers log the map of secrets.
//
// A provider receives only the tokens that it may log in with: it may be another team's, and some
// providers refuse attributes that they do not know.
//
// A fresh read names no current versions, so that a provider which compares versions to avoid a
// read has nothing to compare with.
func (c *Config) newRequest(name string, r provider.Request) (*v1alpha1.MountRequest, error) {
	if r.TargetPath == "" {
		return nil, errors.New("the target path is empty")
	}
	tokens := c.tokensFor(name, r).Encode()
	attributes, err := json.Marshal(attributes(r, tokens))
	if err != nil {
		return nil, fmt.Errorf("encoding the attributes: %w", err)
	}
	inSecrets := secret.String{}
	if r.TokensInSecrets {
		inSecrets = tokens
	}
	secrets, err := json.Marshal(secrets(r, inSecrets))
	if err != nil {
		return nil, fmt.Errorf("encoding the secrets: %w", err)
	}
	m := &v1alpha1.MountRequest{
		Attributes: string(attributes), Secrets: string(secrets), TargetPath: r.TargetPath, Permission: permission,
	}
	if r.Fresh {
		return m, nil
	}
	for _, v := range r.Current {
		m.CurrentObjectVersion = append(m.CurrentObjectVersion, &v1alpha1.ObjectVersion{Id: v.ID, Version: v.Version})
	}
	return m, nil
}

// tokensFor returns the tokens that the provider may have.
func (c *Config) tokensFor(name string, r provider.Request) identity.Tokens {
	wanted, known := c.Audiences[name]
	if !known {
		wanted, known = defaultAudiences[name]
	}
	if own := r.Class.Parameters["audience"]; own != "" {
		wanted = append(slices.Clone(wanted), own)
	}
	some := identity.Tokens{}
	for audience, token := range r.Tokens {
		is := func(pattern string) bool { return audienceMatches(pattern, audience) }
		if slices.ContainsFunc(wanted, is) || !known && !slices.Contains(c.BuiltIn, audience) {
			some[audience] = token
		}
	}
	return some
}

// audienceMatches supports one wildcard: a pattern that begins with an asterisk matches the end of
// the audience.
func audienceMatches(pattern, audience string) bool {
	if rest, wild := strings.CutPrefix(pattern, "*"); wild {
		return strings.HasSuffix(audience, rest)
	}
	return pattern == audience
}

// attributes are the class's parameters and the pod's facts from kubelet, which override them.
func attributes(r provider.Request, tokens secret.String) map[string]string {
	all := make(map[string]string, len(r.Class.Parameters)+7)
	maps.Copy(all, r.Class.Parameters)
	maps.Copy(all, map[string]string{
		identity.ClassKey:          r.Class.Name,
		identity.PodNameKey:        r.Pod.Name,
		identity.PodNamespaceKey:   r.Pod.Namespace,
		identity.PodUIDKey:         r.Pod.UID,
		identity.ServiceAccountKey: r.Pod.ServiceAccount,
		identity.EphemeralKey:      "true",
	})
	delete(all, identity.TokensKey)
	if !tokens.Empty() {
		all[identity.TokensKey] = tokens.Reveal()
	}
	return all
}

// secrets is nil, which JSON encodes as null, if there are none.
func secrets(r provider.Request, tokens secret.String) map[string]string {
	if len(r.Secrets) == 0 && tokens.Empty() {
		return nil
	}
	all := make(map[string]string, len(r.Secrets)+1)
	for key, value := range r.Secrets {
		all[key] = value.Reveal()
	}
	if !tokens.Empty() {
		all[identity.TokensKey] = tokens.Reveal()
	}
	return all
}
