package try_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/try"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// marker is in every secret, and must not be in any output.
const marker = "s3cr3t-marker"

// cluster has the objects of the API server, and its answer to a request for a token of shop/web.
const cluster = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata:
  name: secrets-store.csi.k8s.io
  annotations: {meta.helm.sh/release-namespace: mayfly}
spec: {tokenRequests: [{audience: vault}, {audience: akeyless}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: mayfly, namespace: mayfly, labels: {app.kubernetes.io/name: mayfly}}
spec:
  template:
    spec:
      containers:
      - name: mayfly-node
        args: [--vault-addr=%s, --akeyless-gateway-url=%s]
---
apiVersion: recorded
kind: Answer
request: POST /api/v1/namespaces/shop/serviceaccounts/web/token
code: 201
body: {apiVersion: authentication.k8s.io/v1, kind: TokenRequest, status: {token: %s, expirationTimestamp: %q}}
---
`

// environment is a real Vault, a double of Akeyless, and an issuer of service account tokens.
type environment struct {
	*vaulttest.Server
	akeyless *akeylessd.Server
	issuer   *issuer.Issuer
	sh       func(t *testing.T, script string)
}

func newEnvironment(t *testing.T) *environment {
	t.Helper()
	iss := testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	t.Cleanup(func() { _ = iss.Close() })
	a := testkit.Value(akeylessd.Start(t.Context(), akeylessd.Options{Issuer: iss}))(t)
	t.Cleanup(func() { _ = a.Close() })
	env := &environment{Server: vaulttest.New(t, vaulttest.Options{}), akeyless: a, issuer: iss}
	for _, err := range []error{
		env.EnableKubernetesAuth(t.Context(), "kubernetes", iss), env.EnableJWTAuth(t.Context(), "jwt", iss),
		env.EnableKV(t.Context(), "secret", 2), env.EnableKV(t.Context(), "kv1", 1), env.EnablePKI(t.Context(), "pki", "web"),
	} {
		testkit.Must(t, err)
	}
	program := testkit.Value(toolcache.Get(t.Context(), os.Stderr, "vault"))(t)
	env.sh = func(t *testing.T, script string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "sh", "-euc", script)
		c.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "VAULT_ADDR="+env.Address, "VAULT_TOKEN="+env.RootToken)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, out, script)
		}
	}
	return env
}

// report is the JSON of try.
type report struct {
	Checks   []finding.Check
	Findings []finding.Finding
}

func (r report) codes() string {
	var codes []string
	for _, f := range r.Findings {
		codes = append(codes, f.Code)
	}
	slices.Sort(codes)
	return strings.Join(slices.Compact(codes), " ")
}

func (r report) remedy(code string) string {
	for _, f := range r.Findings {
		if f.Code == code {
			return f.Remedy
		}
	}
	return ""
}

// try runs the command for a class.
func (env *environment) try(t *testing.T, manifest string, args ...string) report {
	t.Helper()
	pod := issuer.PodRef{Namespace: "shop", ServiceAccount: "web"}
	audience := "vault"
	if strings.Contains(manifest, "provider: akeyless") {
		audience = "akeyless"
	}
	token, end := env.issuer.Issue(pod, audience, 10*time.Minute)
	api := clitest.New(t, fmt.Sprintf(cluster, env.Address, env.akeyless.URL(), token, end.UTC().Format(time.RFC3339))+manifest)
	config := testkit.Value(api.Kubeconfig(t.TempDir()))(t)
	args = append([]string{"try", "db", "-n", "shop", "--serviceaccount", "web", "--kubeconfig", config}, args...)
	run := func(format string) string {
		var out, errs bytes.Buffer
		flags := &output.Flags{}
		root := &cobra.Command{SilenceUsage: true, SilenceErrors: true}
		flags.Bind(root.PersistentFlags())
		root.AddCommand(try.New(output.Streams{Out: &out, Err: &errs, Getenv: func(string) string { return "" }, Version: "test"}, flags))
		root.SetArgs(append(args, "-o", format))
		if err := root.Execute(); err != nil && !errors.Is(err, output.ErrFindings) {
			t.Fatalf("%v: %s", err, &errs)
		}
		for _, secret := range []string{marker, "hvs.", "\"t-", " t-", token} {
			if strings.Contains(out.String()+errs.String(), secret) {
				t.Errorf("try prints %q:\n%s%s", secret, &out, &errs)
			}
		}
		return out.String()
	}
	var r report
	testkit.Must(t, json.Unmarshal([]byte(run("json")), &r))
	if t.Failed() || testing.Verbose() {
		t.Log(run("text"))
	}
	return r
}

func class(provider string, parameters string, objects ...string) string {
	return "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: db, namespace: shop}\nspec:\n  provider: " + provider +
		"\n  parameters:\n    " + strings.ReplaceAll(parameters, "\n", "\n    ") + "\n    objects: |\n      - " + strings.Join(objects, "\n      - ") + "\n"
}

// TestRepair runs the commands of the findings until the class works: they write the role, then the
// policy, then the secret.
func TestRepair(t *testing.T) {
	env := newEnvironment(t)
	for _, mount := range []string{"kubernetes", "jwt"} {
		t.Run(mount, func(t *testing.T) {
			path := "web/" + mount + `/it''s`
			manifest := class("vault", "roleName: web-"+mount+"\nvaultAuthMountPath: "+mount,
				"{objectName: password, secretPath: 'secret/data/"+path+"', secretKey: password}", "{objectName: crt, secretPath: pki/issue/web, method: POST, secretKey: certificate, secretArgs: {common_name: a}}")
			r := env.try(t, manifest)
			if r.codes() != "MF204" {
				t.Fatalf("without a role: %+v", r)
			}
			env.sh(t, r.remedy("MF204"))
			if mount == "jwt" { // a method whose role was written with other claims
				env.sh(t, "vault write auth/jwt/role/web-jwt role_type=jwt user_claim=sub bound_audiences=vault bound_subject=system:serviceaccount:shop:other")
			} else {
				env.sh(t, "vault write auth/kubernetes/role/web-kubernetes bound_service_account_names=other")
			}
			if r = env.try(t, manifest); r.codes() != "MF204" {
				t.Fatalf("bound to another account: %+v", r)
			}
			_, line, _ := strings.Cut(r.remedy("MF204"), "account only: ")
			env.sh(t, line)
			env.sh(t, fmt.Sprintf("vault policy write other - <<'EOF'\npath \"secret/metadata/*\" { capabilities = [\"read\"] }\nEOF\nvault write auth/%[1]s/role/web-%[1]s role_type=jwt user_claim=sub token_policies=other", mount))
			if r = env.try(t, manifest); r.codes() != "MF205" || len(r.Findings) != 2 {
				t.Fatalf("without rights: %+v", r)
			}
			env.sh(t, r.remedy("MF205"))
			if r = env.try(t, manifest); r.codes() != "MF206" {
				t.Fatalf("without the secret: %+v", r)
			}
			env.sh(t, strings.Replace(strings.TrimPrefix(r.remedy("MF206"), "store it: "), "=...", "="+marker, 1))
			mark := testkit.Value(env.Mark())(t)
			if r = env.try(t, manifest); r.codes() != "" {
				t.Fatalf("after the repair: %+v", r)
			}
			env.checkNothingRead(t, mark, mount)
			if r = env.try(t, manifest, "--read"); r.codes() != "" || !slices.ContainsFunc(r.Checks, func(c finding.Check) bool { return c.Detail == fmt.Sprintf("read, %d bytes", len(marker)) }) {
				t.Fatalf("with --read: %+v", r)
			}
			// The remedy for another class of the role keeps the rights of this one.
			more := class("vault", "roleName: web-"+mount+"\nvaultAuthMountPath: "+mount, "{objectName: old, secretPath: kv1/web, secretKey: a}")
			if r = env.try(t, more); r.codes() != "MF205" {
				t.Fatalf("another class: %+v", r)
			}
			env.sh(t, strings.TrimPrefix(r.remedy("MF205"), "if a KV engine of version 2 is mounted there, write secretPath: kv1/data/web, and try again; else "))
			if r, again := env.try(t, more), env.try(t, manifest); r.codes() != "" || again.codes() != "" {
				t.Fatalf("both classes: %+v, %+v", r, again)
			}
		})
	}
}

// checkNothingRead checks that try read no secret, and revoked the tokens of its logins.
func (env *environment) checkNothingRead(t *testing.T, since vaulttest.Mark, mount string) {
	t.Helper()
	counts := testkit.Value(env.CountRequests(t.Context(), since))(t)
	if counts.Under("secret/data/") > 0 || counts.Under("pki/") > 0 {
		t.Errorf("try read secrets: %v", counts)
	}
	logins := counts["auth/"+mount+"/login"]
	if logins == 0 || counts["auth/token/revoke-self"] != logins {
		t.Errorf("%d logins, %d revoked", logins, counts["auth/token/revoke-self"])
	}
}

// TestObjects: the findings about each object.
func TestObjects(t *testing.T) {
	env := newEnvironment(t)
	ctx := t.Context()
	for _, err := range []error{
		env.PutKV2(ctx, "secret", "web/db", map[string]any{"password": marker}), env.PutKV1(ctx, "kv1", "web", map[string]any{"a": marker}),
		env.PutKV1(ctx, "kv1", "two", map[string]any{"a": "1", "b": "2"}),
		env.Policy(ctx, "web", `path "secret/*" { capabilities = ["read"] }
path "kv1/*" { capabilities = ["read"] }`),
		env.Policy(ctx, "bare", `path "secret/data/*" { capabilities = ["read"] }`),
		env.Role(ctx, "kubernetes", "web", map[string]any{"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": "vault", "token_policies": "web"}),
		env.Role(ctx, "kubernetes", "bare", map[string]any{"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": "vault", "token_policies": "bare", "token_no_default_policy": true}),
		env.Role(ctx, "kubernetes", "few", map[string]any{"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": "vault", "token_policies": "web", "token_num_uses": 3}),
	} {
		testkit.Must(t, err)
	}
	db := "{objectName: a, secretPath: secret/data/web/db, secretKey: password}"
	for name, tc := range map[string]struct {
		manifest string
		args     []string
		codes    string
		detail   string
	}{
		"exists":             {class("vault", "roleName: web", db), nil, "", "allowed, and exists: version 1"},
		"existence unknown":  {class("vault", "roleName: web", "{objectName: a, secretPath: kv1/web, secretKey: a}"), nil, "", "allowed; use --read to see whether it exists"},
		"key missing":        {class("vault", "roleName: web", "{objectName: a, secretPath: kv1/web, secretKey: b}"), []string{"--read"}, "MF207", ""},
		"all keys":           {class("vault", "roleName: web", "{objectName: d, secretPath: kv1/two, secretKeys: '*'}"), []string{"--read"}, "", "read, 2 files, 2 bytes"},
		"keys collide":       {class("vault", "roleName: web", "{secretPath: kv1/two, secretKeys: '*'}", "{objectName: a, secretPath: kv1/web, secretKey: a}"), []string{"--read"}, "MF207", `both are the file "a"`},
		"without data":       {class("vault", "roleName: web", "{objectName: a, secretPath: secret/web/db, secretKey: a}"), nil, "MF205", ""},
		"optional":           {class("vault", "roleName: web", "{objectName: a, secretPath: secret/data/none, secretKey: a, optional: true}"), nil, "", "answered 404: Not Found, and it is optional"},
		"optional, read":     {class("vault", "roleName: web", "{objectName: a, secretPath: secret/data/none, secretKey: a, optional: true}"), []string{"--read"}, "", ""},
		"public":             {class("vault", "roleName: web", "{objectName: a, secretPath: pki/ca_chain}"), nil, "", "Vault answers it to anybody"},
		"no default policy":  {class("vault", "roleName: bare", db), nil, "MF090 MF208", ""},
		"no policy, read":    {class("vault", "roleName: bare", db), []string{"--read"}, "MF090 MF208", fmt.Sprintf("read, %d bytes", len(marker))},
		"few uses":           {class("vault", "roleName: few", db), nil, "", "allowed; use --read"},
		"no such namespace":  {class("vault", "roleName: web\nvaultAuthMountPath: none", db), nil, "MF204", ""},
		"refused":            {class("vault", "roleName: web\nvaultAddress: ftp://x", db), nil, "MF201", ""},
		"audience":           {class("vault", "roleName: web\naudience: other", db), nil, "MF203", ""},
		"not reached":        {class("vault", "roleName: web\nvaultAddress: http://192.0.2.1:1", db), []string{"--vault-addr", "http://127.0.0.1:1"}, "MF090", ""},
		"reached elsewhere":  {class("vault", "roleName: web\nvaultAddress: http://vault.invalid", db), []string{"--vault-addr", env.Address}, "", "this command connects from this machine to " + env.Address},
		"authority not here": {class("vault", "roleName: web\nvaultAddress: https://vault.invalid\nvaultCACertPath: /etc/mayfly/class-files/none.pem", db), nil, "MF090", ""},
		"plugin":             {class("aws", "region: x", "{objectName: a}"), nil, "MF200", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := env.try(t, tc.manifest, tc.args...)
			if r.codes() != tc.codes {
				t.Errorf("codes %q, want %q: %+v", r.codes(), tc.codes, r.Findings)
			}
			if !slices.ContainsFunc(r.Checks, func(c finding.Check) bool { return strings.Contains(c.Detail, tc.detail) }) {
				t.Errorf("no check has the detail %q: %+v", tc.detail, r.Checks)
			}
		})
	}
}

// TestTLS connects to a server with a private authority, as through a port-forward.
func TestTLS(t *testing.T) {
	env := newEnvironment(t)
	tls := vaulttest.New(t, vaulttest.Options{TLS: true})
	manifest := class("vault", "roleName: web\nvaultAddress: https://localhost:8200", "{objectName: a, secretPath: secret/data/web/db, secretKey: password}")
	testkit.Equal(t, "codes without the authority", env.try(t, manifest, "--vault-addr", tls.Address).codes(), "MF090")
	// The login fails, since Vault is not configured, but the answer is Vault's.
	testkit.Equal(t, "codes with the authority", env.try(t, manifest, "--vault-addr", tls.Address, "--store-ca-cert", tls.CAFile).codes(), "MF204")
}

// TestAkeyless is TestRepair for Akeyless, as far as its API allows.
func TestAkeyless(t *testing.T) {
	env := newEnvironment(t)
	a := env.akeyless
	parameters := "akeylessAccessType: k8s\nakeylessAccessID: p-web\nakeylessK8sAuthConfigName: prod"
	static := class("akeyless", parameters, "{fileName: a, secretPath: /shop/web/a, secretType: static}")
	testkit.Equal(t, "codes without a method", env.try(t, static).codes(), "MF204")
	a.AuthMethod("p-web", akeylessd.Method{Type: "k8s", ConfigName: "prod", Audience: "akeyless"})
	r := env.try(t, static)
	if r.codes() != "MF205" || r.remedy("MF205") != "akeyless set-role-rule --role-name /shop/web --path /shop/web/a --capability read" {
		t.Errorf("without a rule: %+v", r)
	}
	a.Allow(akeylessd.Rule{AccessID: "p-web", Prefix: "/shop/web/", Claims: map[string]string{"service_account_name": "web"}})
	testkit.Equal(t, "codes without the item", env.try(t, static).codes(), "MF206")
	a.PutStatic("/shop/web/a", marker)
	testkit.Equal(t, "codes with method, rule and item", env.try(t, static).codes(), "")
	if n := a.Counts()["/get-secret-value"]; n > 0 {
		t.Errorf("try read %d secrets", n)
	}
	if r := env.try(t, static, "--read"); r.codes() != "" || !slices.ContainsFunc(r.Checks, func(c finding.Check) bool { return c.Detail == fmt.Sprintf("read, %d bytes", len(marker)) }) {
		t.Errorf("with --read: %+v", r)
	}
	testkit.Equal(t, "codes without the key", env.try(t, class("akeyless", parameters, "{fileName: a, secretPath: /shop/web/a, secretType: static, secretKey: none}"), "--read").codes(), "MF207")
	testkit.Equal(t, "codes of access_key", env.try(t, class("akeyless", "akeylessAccessType: access_key\nakeylessAccessID: p-web", "{fileName: a, secretPath: /shop/web/a}")).codes(), "MF200")
	testkit.Equal(t, "codes where the gateway is not reached", env.try(t, static, "--akeyless-gateway-url", "http://127.0.0.1:1").codes(), "MF090")
}
