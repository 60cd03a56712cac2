package vault

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// The parameters that all flavours call the same.
const (
	keyRoleName = "roleName"
	keyAudience = "audience"
	keyObjects  = "objects"
	keySharing  = "sessionSharing"
)

// The parameters that carry the flavour's prefix.
const (
	keyAddress       = "Address"
	keyNamespace     = "Namespace"
	keyAuthMount     = "AuthMountPath"
	keyKubeMount     = "KubernetesMountPath"
	keySkipVerify    = "SkipTLSVerify"
	keyCACert        = "CACertPath"
	keyCADir         = "CADirectory"
	keyServerName    = "TLSServerName"
	keyClientCert    = "TLSClientCertPath"
	keyClientKey     = "TLSClientKeyPath"
	maxParameterSize = 4096
)

// sharing says which pods may use one login together.
type sharing string

const (
	shareAuto           sharing = ""               // what the login's answer proves
	sharePod            sharing = "pod"            // none
	shareServiceAccount sharing = "serviceAccount" // those of one service account
)

// login is what one identity logs in with. It is comparable.
type login struct {
	target    target
	namespace string
	mount     string
	role      string
	audience  string
	sharing   sharing
}

// target is a server and how it is verified. It is comparable.
type target struct {
	address address
	tls     TLS
}

func plainKeys() []string { return []string{keyRoleName, keyAudience, keyObjects, keySharing} }

func prefixedKeys() []string {
	return []string{
		keyAddress, keyNamespace, keyAuthMount, keyKubeMount, keySkipVerify,
		keyCACert, keyCADir, keyServerName, keyClientCert, keyClientKey,
	}
}

func prefixesOf(name string) []string {
	if name == NameOpenBao {
		return []string{"bao", "openbao", "vault"}
	}
	return []string{"vault"}
}

// params reads spec.parameters. It collects errors instead of ending at one.
type params struct {
	path     *field.Path
	values   map[string]string // by key without prefix
	names    map[string]string // the key as the class spells it
	prefix   string            // the prefix to name what is missing by
	errs     field.ErrorList
	warnings []string
}

// newParams sorts the keys into known, doubly given and unknown.
func newParams(name string, raw map[string]string) *params {
	p := &params{
		path:   field.NewPath("spec", "parameters"),
		values: map[string]string{}, names: map[string]string{},
		prefix: prefixesOf(name)[0],
	}
	known := map[string]string{}
	for _, key := range plainKeys() {
		known[key] = key
	}
	for _, prefix := range prefixesOf(name) {
		for _, key := range prefixedKeys() {
			known[prefix+key] = key
		}
	}
	for _, given := range slices.Sorted(maps.Keys(raw)) {
		key, ok := known[given]
		if !ok {
			p.warn(given, "unknown, so ignored%s", didYouMean(given, slices.Sorted(maps.Keys(known))))
			continue
		}
		p.take(key, given, raw[given])
	}
	return p
}

// take keeps a value. An empty one counts as not given.
func (p *params) take(key, given, value string) {
	switch earlier, twice := p.names[key]; {
	case value == "":
	case twice:
		p.errs = append(p.errs, field.Forbidden(p.path.Child(given), "says the same as "+earlier+", which is set too: keep one of them"))
	case key != keyObjects && (len(value) > maxParameterSize || hasControl(value)):
		p.errs = append(p.errs, field.Invalid(p.path.Child(given), clip(value), fmt.Sprintf("must be at most %d bytes without control characters", maxParameterSize)))
	default:
		p.values[key], p.names[key] = value, given
	}
}

func (p *params) warn(key, format string, args ...any) {
	p.warnings = append(p.warnings, p.path.Child(clip(key)).String()+": "+fmt.Sprintf(format, args...))
}

// field is the path of a key, as the class spells it or would.
func (p *params) field(key string) *field.Path {
	if name, ok := p.names[key]; ok {
		return p.path.Child(name)
	}
	if slices.Contains(plainKeys(), key) {
		return p.path.Child(key)
	}
	return p.path.Child(p.prefix + key)
}

func (p *params) invalid(key, detail string) {
	p.errs = append(p.errs, field.Invalid(p.field(key), clip(p.values[key]), detail))
}

func (p *params) or(key, def string) string {
	if v, ok := p.values[key]; ok {
		return v
	}
	return def
}

// login reads everything but the objects.
func (p *params) login(c *Config) login {
	l := login{
		target:    target{address: p.address(c.DefaultAddress), tls: p.tls(c.DefaultTLS)},
		namespace: strings.Trim(p.or(keyNamespace, c.DefaultNamespace), "/"),
		mount:     p.mount(c.DefaultAuthMount),
		role:      p.values[keyRoleName],
		audience:  p.or(keyAudience, c.DefaultAudience),
		sharing:   p.sharing(),
	}
	if l.role == "" {
		p.errs = append(p.errs, field.Required(p.field(keyRoleName), "the role of the auth method to log in with"))
	}
	if l.target.address.scheme == "http" && l.target.tls != (TLS{}) && l.target.tls != c.DefaultTLS {
		p.warn(p.names[keyAddress], "is a plain http address, so the class's TLS parameters have no effect")
	}
	return l
}

func (p *params) address(def string) address {
	text := p.or(keyAddress, def)
	if text == "" {
		p.errs = append(p.errs, field.Required(p.field(keyAddress), "neither the class nor the driver names a server"))
		return address{}
	}
	a, err := parseAddress(text)
	if err != nil {
		if strings.Contains(text, "@") { // may hold a password
			p.values[keyAddress] = secret.Redacted
		}
		p.invalid(keyAddress, err.Error())
	}
	return a
}

// mount accepts both names of the same parameter, but not at once.
func (p *params) mount(def string) string {
	key := keyAuthMount
	if _, ok := p.values[keyKubeMount]; ok {
		if _, both := p.values[keyAuthMount]; both {
			p.errs = append(p.errs, field.Forbidden(p.field(keyKubeMount), "says the same as "+p.names[keyAuthMount]+", which is set too: keep one of them"))
		}
		key = keyKubeMount
	}
	mount, err := parseMount(p.or(key, def))
	if err != nil {
		p.invalid(key, err.Error())
	}
	return mount
}

// tls lets the class replace the operator's settings in groups that belong
// together: the authorities, the client's certificate and key.
func (p *params) tls(def TLS) TLS {
	t := def
	if p.values[keyCACert] != "" || p.values[keyCADir] != "" {
		t.CACertFile, t.CACertDir = p.values[keyCACert], p.values[keyCADir]
	}
	if p.values[keyClientCert] != "" || p.values[keyClientKey] != "" {
		t.ClientCertFile, t.ClientKeyFile = p.values[keyClientCert], p.values[keyClientKey]
		p.both(keyClientCert, keyClientKey)
	}
	t.ServerName = p.or(keyServerName, t.ServerName)
	if text, ok := p.values[keySkipVerify]; ok {
		skip, err := strconv.ParseBool(text)
		if err != nil {
			p.invalid(keySkipVerify, `must be "true" or "false"`)
		}
		t.SkipVerify = skip
	}
	return t
}

func (p *params) both(a, b string) {
	for _, key := range []string{a, b} {
		if p.values[key] == "" {
			p.errs = append(p.errs, field.Required(p.field(key), "a client certificate and its key go together"))
		}
	}
}

func (p *params) sharing() sharing {
	switch s := sharing(p.values[keySharing]); s {
	case shareAuto, sharePod, shareServiceAccount:
		return s
	}
	p.errs = append(p.errs, field.NotSupported(p.field(keySharing), clip(p.values[keySharing]), []string{string(sharePod), string(shareServiceAccount)}))
	return shareAuto
}

// clip keeps a hostile value from filling an error.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
