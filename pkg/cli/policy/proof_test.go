package policy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/policy"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/compat"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/postgres"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// environment is a real Vault, and an issuer of the pods' service account tokens.
type environment struct {
	*vaulttest.Server
	issuer *issuer.Issuer
	volume int
}

func newEnvironment(t *testing.T) *environment {
	t.Helper()
	iss := testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	t.Cleanup(func() { _ = iss.Close() })
	env := &environment{Server: vaulttest.New(t, vaulttest.Options{}), issuer: iss}
	for _, err := range []error{
		env.EnableKubernetesAuth(t.Context(), "kubernetes", iss), env.EnableJWTAuth(t.Context(), "jwt", iss),
		env.EnableKV(t.Context(), "secret", 2), env.EnableKV(t.Context(), "kv1", 1),
	} {
		testkit.Must(t, err)
	}
	return env
}

// plan runs the command over a manifest, with a pod of shop/web that mounts it.
func (env *environment) plan(t *testing.T, manifest, name string, args ...string) access.Grant {
	t.Helper()
	var out struct{ Vault []access.Grant }
	args = append([]string{"-o", "json", "--vault-addr", env.Address, "--serviceaccount", "shop/web"}, args...)
	testkit.Must(t, json.Unmarshal([]byte(run(t, manifest, args...)), &out))
	if len(out.Vault) != 1 {
		t.Fatalf("%s: %d grants", name, len(out.Vault))
	}
	return out.Vault[0]
}

// run runs the command over a manifest and returns its output.
func run(t *testing.T, manifest string, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "class.yaml")
	testkit.Must(t, os.WriteFile(file, []byte(manifest), 0o600))
	var out, errs bytes.Buffer
	flags := &output.Flags{}
	root := &cobra.Command{SilenceUsage: true, SilenceErrors: true}
	flags.Bind(root.PersistentFlags())
	root.AddCommand(policy.New(output.Streams{Out: &out, Err: &errs, Getenv: os.Getenv}, flags))
	root.SetArgs(append([]string{"policy", "-f", file}, args...))
	if err := root.Execute(); err != nil && !errors.Is(err, output.ErrFindings) {
		t.Fatalf("%v: %s", err, &errs)
	}
	return out.String()
}

// fetch reads the objects of the class as the driver does, with a new login, and releases them.
func (env *environment) fetch(t *testing.T, manifest string) error {
	t.Helper()
	classes, _, err := class.ParseManifest([]byte(manifest))
	if err != nil || len(classes) != 1 {
		t.Fatal(len(classes), err)
	}
	parsed, _, err := class.Parse(classes[0])
	testkit.Must(t, err)
	p, err := vault.New(vault.Config{
		Name: parsed.Provider, DefaultAddress: env.Address,
		Settings: endpoint.Settings{MaxRetries: 3, RetryBase: 20 * time.Millisecond},
	})
	testkit.Must(t, err)
	defer p.Close()
	env.volume++
	uid := fmt.Sprintf("uid-%d", env.volume)
	pod := issuer.PodRef{Namespace: "shop", Pod: "web", PodUID: uid, ServiceAccount: "web"}
	tokens := testkit.Value(identity.ParseTokens(env.issuer.CSITokens(pod, "vault", "openbao")))(t)
	_, err = p.Fetch(t.Context(), provider.Request{
		Volume: uid, Pod: identity.Pod{Namespace: "shop", Name: "web", UID: uid, ServiceAccount: "web"}, Tokens: tokens, Class: parsed,
	})
	if released := p.Release(t.Context(), uid); released != nil {
		t.Error(released)
	}
	return err
}

// grant writes the role and its policy.
func (env *environment) grant(ctx context.Context, g access.Grant, p access.Policy) error {
	if err := env.Policy(ctx, p.Name, p.HCL()); err != nil {
		return err
	}
	role := map[string]any{"token_policies": []string{p.Name}, "token_no_default_policy": g.NoDefault, "token_ttl": "10m"}
	if g.Method == access.JWT {
		maps.Copy(role, map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": g.Audience, "bound_subject": "system:serviceaccount:shop:web"})
	} else {
		maps.Copy(role, map[string]any{"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": g.Audience})
	}
	return env.Role(ctx, g.Mount, g.Role, role)
}

func withoutCapability(p access.Policy, rule int, capability string) access.Policy {
	p.Rules = slices.Clone(p.Rules)
	r := &p.Rules[rule]
	r.Capabilities = slices.DeleteFunc(slices.Clone(r.Capabilities), func(c string) bool { return c == capability })
	if len(r.Capabilities) == 0 {
		p.Rules = slices.Delete(p.Rules, rule, rule+1)
	}
	return p
}

// checkMinimal checks that the printed policy has what a class needs and no more: the class is served
// with it, and refused without any one capability that has the purpose Serve.
func (env *environment) checkMinimal(t *testing.T, name, manifest string) {
	t.Helper()
	g := env.plan(t, manifest, name, "--no-default-policy", "--versions")
	testkit.Must(t, env.grant(t.Context(), g, g.Policy))
	if err := env.fetch(t, manifest); err != nil {
		t.Fatalf("with the whole policy: %v\n%s", err, g.Policy.HCL())
	}
	serve := 0
	for i, r := range g.Policy.Rules {
		for _, capability := range r.Capabilities {
			p := withoutCapability(g.Policy, i, capability)
			testkit.Must(t, env.grant(t.Context(), g, p))
			err := env.fetch(t, manifest)
			switch {
			case r.Purpose == vault.Serve && (err == nil || fault.Of(err) != fault.Denied):
				t.Errorf("without %s on %q: %v", capability, r.Path, err)
			case r.Purpose != vault.Serve && err != nil:
				t.Errorf("without %s on %q, which is for %s: %v", capability, r.Path, r.Purpose, err)
			case r.Purpose == vault.Serve, r.Purpose == vault.Public:
				serve++
			}
		}
	}
	if serve == 0 {
		t.Error("the policy has no rule for serving")
	}
	testkit.Must(t, env.grant(t.Context(), g, g.Policy))
}

// TestPolicyIsMinimal runs checkMinimal for the classes of test/compat that a Vault serves.
func TestPolicyIsMinimal(t *testing.T) {
	cases := testkit.Value(compat.Load("../../../test/compat/cases"))(t)
	env, tested := newEnvironment(t), 0
	for _, c := range cases {
		classes, _, _ := class.ParseManifest([]byte(c.Class))
		if len(c.Want.Error) > 0 || len(c.Vault.Answers) > 0 || len(classes) != 1 || classes[0].Spec.Provider != vault.NameVault && classes[0].Spec.Provider != vault.NameOpenBao {
			continue
		}
		tested++
		t.Run(c.Name, func(t *testing.T) {
			for path, kind := range c.Vault.Mounts {
				testkit.Must(t, env.Write(t.Context(), "sys/mounts/"+path, map[string]any{"type": kind}))
			}
			for _, one := range c.Vault.Writes {
				testkit.Must(t, env.Write(t.Context(), one.Path, one.Data))
			}
			env.checkMinimal(t, c.Name, c.Class)
		})
	}
	if tested < 12 {
		t.Errorf("%d cases", tested)
	}
}

// TestCommands: the vault program accepts the output of -o commands and the lines of remedies, and the
// class is then served.
func TestCommands(t *testing.T) {
	program := testkit.Value(toolcache.Get(t.Context(), os.Stderr, "vault"))(t)
	env := newEnvironment(t)
	testkit.Must(t, env.PutKV2(t.Context(), "secret", `it's ${x}`, map[string]any{"a": "A"}))
	sh := func(script string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "sh", "-euc", script)
		c.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "VAULT_ADDR="+env.Address, "VAULT_TOKEN="+env.RootToken)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, out, script)
		}
	}
	for _, mount := range []string{"kubernetes", "jwt"} {
		for _, lines := range []bool{false, true} {
			name := fmt.Sprintf("web-%s-%v", mount, lines)
			text := manifest(name, mount, `{objectName: a, secretPath: 'secret/data/it''s ${x}', secretKey: a}`)
			if err := env.fetch(t, text); err == nil {
				t.Fatal("the class is served before the commands ran")
			}
			if lines {
				g := env.plan(t, text, name)
				sh(g.PolicyLine() + "\n" + g.RoleLine())
			} else {
				sh(run(t, text, "-o", "commands", "--serviceaccount", "web"))
			}
			if err := env.fetch(t, text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestCheck runs --check against a real Vault: no findings for the policy that the command prints, and
// a finding for each change of it.
func TestCheck(t *testing.T) {
	env := newEnvironment(t)
	t.Setenv("VAULT_ADDR", env.Address)
	t.Setenv("VAULT_TOKEN", env.RootToken)
	text := manifest("web", "kubernetes", "{objectName: a, secretPath: secret/data/web/db, secretKey: a}", "{objectName: b, secretPath: pki/issue/web, method: POST, secretKey: certificate}")
	codes := func() []string {
		t.Helper()
		var out struct{ Findings []struct{ Code string } }
		testkit.Must(t, json.Unmarshal([]byte(run(t, text, "--check", "--serviceaccount", "web", "-o", "json")), &out))
		var list []string
		for _, f := range out.Findings {
			list = append(list, f.Code)
		}
		return list
	}
	g := env.plan(t, text, "web")
	for _, tc := range []struct {
		change func() error
		want   []string
	}{
		{func() error { return nil }, []string{"MF310"}},
		{func() error { return env.grant(t.Context(), g, g.Policy) }, nil},
		{func() error {
			return env.Policy(t.Context(), g.Policy.Name, withoutCapability(g.Policy, 0, "update").HCL())
		}, []string{"MF312"}},
		{func() error {
			return env.Policy(t.Context(), g.Policy.Name, g.Policy.HCL()+`path "sys/*" { capabilities = ["sudo"] }`)
		}, []string{"MF313"}},
		{func() error {
			return env.Role(t.Context(), "kubernetes", "web", map[string]any{"bound_service_account_names": "*", "bound_service_account_namespaces": "bank"})
		}, []string{"MF311", "MF313", "MF314", "MF314"}},
	} {
		testkit.Must(t, tc.change())
		testkit.Equal(t, "codes", codes(), tc.want)
	}
	t.Setenv("VAULT_TOKEN", "hvs.unknown")
	testkit.Equal(t, "codes with a bad token", codes(), []string{"MF090"})
}

func manifest(name, mount string, objects ...string) string {
	return "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: " + name + ", namespace: shop}\nspec:\n  provider: vault\n  parameters:\n    roleName: " +
		name + "\n    vaultAuthMountPath: " + mount + "\n    objects: |\n      - " + strings.Join(objects, "\n      - ") + "\n"
}

// TestPolicyIsMinimalByEngine runs checkMinimal for each kind of request.
func TestPolicyIsMinimalByEngine(t *testing.T) {
	env := newEnvironment(t)
	ctx := t.Context()
	for _, err := range []error{
		env.PutKV1(ctx, "kv1", "web", map[string]any{"a": "A"}), env.PutKV2(ctx, "secret", "web/db", map[string]any{"a": "A"}),
		env.PutKV2(ctx, "secret", `it's "odd" ${x} %7B`, map[string]any{"a": "A"}),
		env.EnablePKI(ctx, "pki", "web"), env.EnableTransit(ctx, "transit", "web"),
		env.Write(ctx, "sys/mounts/ssh", map[string]any{"type": "ssh"}), env.Write(ctx, "ssh/config/ca", map[string]any{"generate_signing_key": true}),
		env.Write(ctx, "ssh/roles/web", map[string]any{"key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "default_user": "web", "ttl": "1h"}),
	} {
		testkit.Must(t, err)
	}
	for name, objects := range map[string][]string{
		"kv1":     {"{objectName: a, secretPath: kv1/web, secretKey: a}"},
		"kv2":     {"{objectName: a, secretPath: secret/data/web/db, secretKey: a}", "{objectName: b, secretPath: 'v1/secret/data/web/db?version=1', secretKey: a}"},
		"odd":     {`{objectName: a, secretPath: 'secret/data/it''s "odd" ${x} %7B', secretKey: a}`},
		"list":    {"{objectName: names, secretPath: secret/metadata/web, method: LIST, secretKey: keys}", "{objectName: more, secretPath: 'kv1?list=true', secretKey: keys}"},
		"pki":     {"{objectName: a, secretPath: pki/issue/web, method: POST, secretKey: certificate, secretArgs: {common_name: a.example}}", "{objectName: ca, secretPath: pki/cert/ca, secretKey: certificate}"},
		"transit": {"{objectName: a, secretPath: transit/datakey/plaintext/web, method: PUT, secretKey: plaintext}", "{objectName: b, secretPath: transit/encrypt/web, method: POST, secretKey: ciphertext, secretArgs: {plaintext: c2VjcmV0}}"},
		"ssh":     {"{objectName: a, secretPath: ssh/issue/web, method: POST, secretKey: signed_key, secretArgs: {key_type: ed25519}}"},
		"sys":     {"{objectName: a, secretPath: sys/audit}", "{objectName: b, secretPath: sys/mounts/secret/tune, secretKey: max_lease_ttl}"},
		"self":    {"{objectName: a, secretPath: auth/token/lookup-self, secretKey: display_name}"},
	} {
		for _, mount := range []string{"kubernetes", "jwt"} {
			t.Run(name+" by "+mount, func(t *testing.T) { env.checkMinimal(t, name, manifest(name, mount, objects...)) })
		}
	}
	t.Run("database", func(t *testing.T) {
		pg := postgres.New(t)
		pg.Query(t, "CREATE ROLE batch LOGIN PASSWORD 'old'")
		pg.Enable(t, env.Server)
		pg.Role(t, env.Server, "web", "1h", "2h")
		testkit.Must(t, env.Write(t.Context(), "database/static-roles/batch", map[string]any{"db_name": "pg", "username": "batch", "rotation_period": "24h"}))
		env.checkMinimal(t, "database", manifest("database", "kubernetes", "{objectName: a, secretPath: database/creds/web, secretKey: password}", "{objectName: b, secretPath: database/static-creds/batch, secretKey: password}"))
	})
}
