package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// The parameters with the same name for Vault and OpenBao.
const (
	keyRoleName = "roleName"
	keyAudience = "audience"
	keyObjects  = "objects"
	keySharing  = "sessionSharing"
)

// The parameters with a prefix: vault, or one of OpenBao's.
const (
	keyAddress    = "Address"
	keyFallback   = "FallbackAddress"
	keyNamespace  = "Namespace"
	keyAuthMount  = "AuthMountPath"
	keyKubeMount  = "KubernetesMountPath" // another name of it
	keySkipVerify = "SkipTLSVerify"
	keyCACert     = "CACertPath"
	keyCADir      = "CADirectory"
	keyServerName = "TLSServerName"
	keyClientCert = "TLSClientCertPath"
	keyClientKey  = "TLSClientKeyPath"
)

func plainKeys() []string { return []string{keyRoleName, keyAudience, keyObjects, keySharing} }

func prefixedKeys() []string {
	return []string{
		keyAddress, keyFallback, keyNamespace, keyAuthMount, keyKubeMount, keySkipVerify,
		keyCACert, keyCADir, keyServerName, keyClientCert, keyClientKey,
	}
}

func targetKeys() params.TargetKeys {
	return params.TargetKeys{
		Address: keyAddress, Fallback: keyFallback, Socket: true, CACertFile: keyCACert, CACertDir: keyCADir, ServerName: keyServerName,
		ClientCertFile: keyClientCert, ClientKeyFile: keyClientKey, SkipVerify: keySkipVerify,
	}
}

// prefixesOf returns the prefixes of a flavour. Errors about missing parameters use the
// first.
func prefixesOf(name string) []string {
	if name == NameOpenBao {
		return []string{"bao", "openbao", "vault"}
	}
	return []string{"vault"}
}

// known returns the parameters of a flavour.
func known(name string) params.Known {
	k := params.Known{Keys: plainKeys(), Names: map[string][]string{}, Long: []string{keyObjects}, Prefixes: prefixesOf(name)}
	if name == NameOpenBao {
		k.Names[keyRoleName] = []string{keyRoleName, "baoRoleName", "openbaoRoleName", "vaultRoleName"}
	} else {
		k.Foreign = openBaos
	}
	for _, key := range prefixedKeys() {
		of := key
		if key == keyKubeMount {
			of = keyAuthMount
		} else {
			k.Keys = append(k.Keys, key)
		}
		for _, prefix := range prefixesOf(name) {
			k.Names[of] = append(k.Names[of], prefix+key)
		}
	}
	return k
}

// Parameters returns the names that a class of a flavour may use, sorted, without those of
// package class.
func Parameters(flavour string) []string { return known(flavour).All() }

// openBaos explains a parameter with OpenBao's prefix in a class of provider vault, where
// it has no effect.
func openBaos(name string) string {
	for _, prefix := range prefixesOf(NameOpenBao)[:2] {
		if key, ok := strings.CutPrefix(name, prefix); ok && (key == "RoleName" || slices.Contains(prefixedKeys(), key)) {
			instead := "vault" + key
			if key == "RoleName" {
				instead = keyRoleName
			}
			return fmt.Sprintf("; it is a parameter of provider openbao: set spec.provider to openbao, or write %s", instead)
		}
	}
	return ""
}

// settingNames returns the names of a flavour's TLS settings.
func settingNames(name string) endpoint.Names {
	n := params.TargetNames(targetKeys(), known(name))
	n.OperatorCA = setting.Name("--vault-tls-ca-cert")
	return n
}

// sharing says which pods may share a login.
type sharing string

const (
	shareAuto           sharing = ""               // as the answer of the login proves
	sharePod            sharing = "pod"            // none
	shareServiceAccount sharing = "serviceAccount" // those of one service account
)

// login is how one identity logs in. It is comparable, and its JSON is part of the state.
type login struct {
	endpoint.Target
	Fallback  endpoint.Target `json:"fallback,omitzero"` // zero for none
	Namespace string          `json:"namespace,omitempty"`
	Mount     string          `json:"mount"`
	Role      string          `json:"role"`
	Audience  string          `json:"audience"`
	Sharing   sharing         `json:"sharing,omitempty"`
}

// newLogin reads everything but the objects. The operator's client certificate is only for
// the operator's own auth mounts: at another one, such as that of a cert method, it could
// be the login.
func (p *Provider) newLogin(set *params.Set) login {
	c, operator := &p.config, p.operator
	mount, err := parseMount(set.Get(keyAuthMount, c.DefaultAuthMount))
	if err != nil {
		set.Invalid(keyAuthMount, err.Error())
	}
	if !slices.Contains(p.mounts, mount) {
		operator.TLS = operator.TLS.WithoutClient()
	}
	target := set.Target(targetKeys(), operator)
	l := login{
		Target:    target,
		Fallback:  set.Fallback(targetKeys(), operator, target),
		Namespace: strings.Trim(set.Get(keyNamespace, c.DefaultNamespace), "/"),
		Mount:     mount,
		Role:      set.Get(keyRoleName, ""),
		Audience:  set.Get(keyAudience, c.DefaultAudience),
		Sharing:   sharing(set.Word(keySharing, "", string(sharePod), string(shareServiceAccount))),
	}
	if l.Role == "" {
		set.Required(keyRoleName, "the role of the auth method to log in with")
	}
	return l
}

// Destination implements session.Login.
func (l login) Destination() string { return l.Address.String() + " " + l.Namespace }

// Access implements session.Login.
func (l login) Access() provider.Access {
	return provider.Access{Address: l.Address.String(), Namespace: l.Namespace, Mount: l.Mount, Role: l.Role}
}

// ReadLogin implements session.Store.
func (p *Provider) ReadLogin(raw json.RawMessage) (session.Login, error) {
	return session.DecodeLogin[login](raw)
}

// loginOf returns a login of this provider.
func loginOf(l session.Login) login { return l.(login) } //nolint:forcetypeassert // no other is made
