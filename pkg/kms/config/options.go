package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// FlagConfig names the flag of the YAML file.
const FlagConfig = "config"

// envPrefix begins the names of all environment variables.
const envPrefix = "MAYFLY_KMS_"

// Options are the flags of a command that needs a Config. Every command has all of them, so that
// all commands can share one file.
type Options struct {
	flags *pflag.FlagSet
	names []string
	raw   raw
	file  string
}

// raw has the values before validation.
type raw struct {
	listen, socketGroup                                 string
	allowedUIDs                                         []string
	addresses                                           []string
	namespace, caCert, caPath, serverName               string
	clientCert, clientKey                               string
	method, mount, role, roleID                         string
	secretIDFile, jwtFile, tokenFile                    string
	wrapped, inline                                     bool
	transitMount, transitKey, clusterID, epoch          string
	timing                                              Timing
	localKey                                            bool
	healthAddr, metricsAddr, auditLog, logFormat, level string
}

// Register declares the flags.
func Register(flags *pflag.FlagSet) *Options {
	o := &Options{flags: flags}
	before := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) { before[f.Name] = true })
	o.declareStore(flags)
	o.declareLogin(flags)
	o.declareKey(flags)
	o.declareServe(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if !before[f.Name] {
			o.names = append(o.names, f.Name)
		}
	})
	flags.StringVar(&o.file, FlagConfig, "", "YAML `file` with any of these settings, in camel case: transit-key is transitKey there.\nA flag comes before the environment, and the environment before the file")
	for _, name := range append(slices.Clone(o.names), FlagConfig) {
		f := flags.Lookup(name)
		f.Usage += " [" + EnvName(name) + "]"
	}
	return o
}

func (o *Options) declareStore(f *pflag.FlagSet) {
	r := &o.raw
	f.StringSliceVar(&r.addresses, "vault-addr", nil, "`addresses` of the Vault or OpenBao servers, separated by commas: https://host:8200, http:// on loopback\nonly, or unix:///socket. They are tried in turn, all within --call-timeout")
	f.StringVar(&r.namespace, "vault-namespace", "", "`namespace` of Vault Enterprise or OpenBao in which the login and the key are")
	f.StringVar(&r.caCert, "vault-ca-cert", "", "PEM `file` with the CAs of the servers' certificates; the system's CAs by default. It is read again when it changes")
	f.StringVar(&r.caPath, "vault-ca-path", "", "`directory` of such files, used without --vault-ca-cert")
	f.StringVar(&r.serverName, "vault-tls-server-name", "", "`name` that the servers' certificates must have, if it differs from the address")
	f.StringVar(&r.clientCert, "vault-client-cert", "", "PEM `file` of the client certificate, for --auth-method=cert or servers that require one. It is read again when it changes")
	f.StringVar(&r.clientKey, "vault-client-key", "", "PEM `file` of its key; may be the same file")
}

func (o *Options) declareLogin(f *pflag.FlagSet) {
	r := &o.raw
	f.StringVar(&r.method, "auth-method", "", "how to log in: approle, cert, jwt or token-file")
	f.StringVar(&r.mount, "auth-mount", "", "`path` of the auth method, without auth/. The method's name by default")
	f.StringVar(&r.role, "auth-role", "", "`name` of the role, for jwt; for cert, the certificate role (by default any that matches)")
	f.StringVar(&r.roleID, "role-id", "", "role `id`, for approle")
	f.StringVar(&r.secretIDFile, "secret-id-file", "", "`file` of the secret id, for approle. It is read at each login, so you can replace the file")
	f.BoolVar(&r.wrapped, "secret-id-wrapped", false, "the file holds a response-wrapping token, which is unwrapped once. The plugin reads the next token when the\nfile changes; after each restart it needs a new one")
	f.StringVar(&r.jwtFile, "jwt-file", "", "`file` of the JWT, such as a SPIFFE JWT-SVID, for jwt. It is read at each login")
	f.StringVar(&r.tokenFile, "token-file", "", "`file` of a Vault token that Vault Agent or another program renews, for token-file. It is read again when it changes")
	f.BoolVar(&r.inline, "auth-inline", false, "send the login with each request instead of using a token, for approle and jwt. This needs OpenBao 2.4 or later;\neach request counts as one use of a secret id with a limited number of uses")
}

func (o *Options) declareKey(f *pflag.FlagSet) {
	r := &o.raw
	f.StringVar(&r.transitMount, "transit-mount", "transit", "`path` of the Transit engine")
	f.StringVar(&r.transitKey, "transit-key", "", "`name` of the key: aes256-gcm96, aes128-gcm96, chacha20-poly1305 or, on OpenBao, xchacha20-poly1305")
	f.StringVar(&r.clusterID, "cluster-id", "", "`id` of this cluster, the same on all its nodes, such as the UID of the namespace kube-system. It is part of every\nencrypted value: with another id nothing can be decrypted, so it can never change")
	f.StringVar(&r.epoch, "key-epoch", "", "any `text`; a change makes a new key id for the same key version, as if the key had been rotated")
	f.BoolVar(&r.localKey, "local-key", true, "encrypt the API server's seeds with a key that is only in this process's memory and that Transit has wrapped. Then the\nAPI server can restart while Vault is away, as long as this process runs. If false, Vault encrypts each seed itself")
	f.DurationVar(&r.timing.OutageLimit, "outage-limit", defaultOutageLimit, "`time` for which the plugin works without Vault: it keeps the key id, and decrypted seeds in memory. After that the\nAPI server's writes fail, and the seeds in memory are wiped. It limits how long the plugin works after its access was revoked")
	f.DurationVar(&r.timing.CallTimeout, "call-timeout", defaultCallTimeout, "`time` for one call of the API server, with all addresses. It must be less than the timeout in the EncryptionConfiguration, 3s by default")
	f.DurationVar(&r.timing.Poll, "poll-interval", defaultPoll, "`time` between two reads of the key's versions, and so the maximum delay until a rotation is noticed")
	f.DurationVar(&r.timing.Proof, "proof-interval", defaultProof, "`time` between two round trips, which verify that encrypt and decrypt are still granted")
}

func (o *Options) declareServe(f *pflag.FlagSet) {
	r := &o.raw
	f.StringVar(&r.listen, "listen", "unix:///run/mayfly-kms/kms.sock", "`socket` for the API server, as in the EncryptionConfiguration's endpoint. Its directory is created, accessible only to root")
	f.StringVar(&r.socketGroup, "socket-group", "", "`group`, by name or number, that may connect besides root, for an API server that does not run as root")
	f.StringSliceVar(&r.allowedUIDs, "allowed-uids", nil, "`numbers` of the users whose processes may call, separated by commas; by default all that can connect")
	f.StringVar(&r.healthAddr, "health-addr", "127.0.0.1:8796", "`address` of /healthz and /readyz; empty for none. Do not use /readyz as a liveness probe: it fails while Vault is away")
	f.StringVar(&r.metricsAddr, "metrics-addr", "127.0.0.1:8796", "`address` of /metrics, in Prometheus' format; empty for none")
	f.StringVar(&r.auditLog, "audit-log", "-", "`file` for a JSON line for each Encrypt and Decrypt; - for standard output, empty for none")
	f.StringVar(&r.logFormat, "log-format", "json", "json or text, on standard error")
	f.StringVar(&r.level, "log-level", "info", "debug, info, warn or error")
}

// EnvName is the environment variable of a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// YAMLName is the setting of a flag in the file.
func YAMLName(flag string) string {
	var b strings.Builder
	for i, part := range strings.Split(flag, "-") {
		if i > 0 {
			part = strings.ToUpper(part[:1]) + part[1:]
		}
		b.WriteString(part)
	}
	return b.String()
}

// Load reads settings without a flag from the file and the environment, and validates all settings.
// Its errors name the setting.
func (o *Options) Load(getenv func(string) string) (Config, error) {
	if value := getenv(EnvName(FlagConfig)); value != "" && !o.flags.Changed(FlagConfig) {
		o.file = value
	}
	given := map[string]bool{}
	for _, name := range o.names {
		given[name] = o.flags.Changed(name)
		if value := getenv(EnvName(name)); value != "" && !given[name] {
			given[name] = true
			if err := o.set(name, value); err != nil {
				return Config{}, fmt.Errorf("environment variable %s: %w", EnvName(name), err)
			}
		}
	}
	if o.file != "" {
		settings, err := readFile(o.file, o.names)
		if err != nil {
			return Config{}, err
		}
		for _, s := range settings {
			if given[s.flag] {
				continue
			}
			if err := o.set(s.flag, s.values...); err != nil {
				return Config{}, fmt.Errorf("%s:%d: %s: %w", o.file, s.line, YAMLName(s.flag), err)
			}
		}
	}
	return o.raw.check()
}

// set sets a flag's value. Its error does not quote the value, which may be a misplaced secret.
func (o *Options) set(name string, values ...string) error {
	f := o.flags.Lookup(name)
	if list, ok := f.Value.(pflag.SliceValue); ok {
		if len(values) == 1 {
			values = strings.Split(values[0], ",")
		}
		return list.Replace(values)
	}
	if len(values) != 1 {
		return fmt.Errorf("must be one value, not a list")
	}
	if err := f.Value.Set(values[0]); err != nil {
		return fmt.Errorf("must be %s", map[string]string{"bool": "true or false", "duration": "a time such as 30s"}[f.Value.Type()])
	}
	return nil
}
