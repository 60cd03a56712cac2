package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// good is the least that is complete.
func good(more ...string) []string {
	return append([]string{
		"--vault-addr=https://vault.example.com", "--auth-method=approle", "--role-id=r", "--secret-id-file=/s", "--transit-key=k", "--cluster-id=c",
	}, more...)
}

func load(t testing.TB, args []string, env map[string]string) (config.Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	options := config.Register(flags)
	if err := flags.Parse(args); err != nil {
		return config.Config{}, err
	}
	return options.Load(func(name string) string { return env[name] })
}

func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	testkit.Must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestDefaults(t *testing.T) {
	c := testkit.Value(load(t, good(), nil))(t)
	if c.Serve.Socket != "/run/mayfly-kms/kms.sock" || !c.Serve.LocalKey || c.Serve.HealthAddr != "127.0.0.1:8796" || c.Login.Mount != "approle" || c.Transit.Mount != "transit" {
		t.Errorf("%+v", c)
	}
	if c.Timing.CallTimeout >= 3*time.Second || c.Timing.Poll < 30*time.Second || c.Timing.OutageLimit != 24*time.Hour {
		t.Errorf("%+v", c.Timing)
	}
}

// The order is: flag, environment, file.
func TestSources(t *testing.T) {
	path := file(t, `
# a comment
vaultAddr: [https://a.example.com, https://b.example.com:8201]
transitKey: from-file
clusterId: from-file
keyEpoch: from-file
localKey: false
pollInterval: 1m
allowedUids: [0, 1000]
`)
	c, err := load(t, []string{"--auth-method=approle", "--role-id=r", "--secret-id-file=/s", "--transit-key=from-flag"},
		map[string]string{"MAYFLY_KMS_CONFIG": path, "MAYFLY_KMS_CLUSTER_ID": "from-env", "MAYFLY_KMS_TRANSIT_KEY": "from-env"})
	testkit.Must(t, err)
	if c.Transit.Key != "from-flag" || c.Transit.ClusterID != "from-env" || c.Transit.Epoch != "from-file" {
		t.Errorf("%+v", c.Transit)
	}
	if len(c.Vault.Addresses) != 2 || c.Vault.Addresses[1].String() != "https://b.example.com:8201" || c.Serve.LocalKey || c.Timing.Poll != time.Minute || !slices.Equal(c.Serve.AllowedUIDs, []uint32{0, 1000}) {
		t.Errorf("%+v", c)
	}
	c, err = load(t, good(), map[string]string{"MAYFLY_KMS_VAULT_ADDR": "https://other.example.com"})
	if err != nil || len(c.Vault.Addresses) != 1 || !strings.Contains(c.Vault.Addresses[0].String(), "vault.example") {
		t.Errorf("%+v, %v", c.Vault, err)
	}
}

// Every refusal names the setting.
func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--vault-addr="}, "--vault-addr"},
		{[]string{"--vault-addr=http://vault.example.com"}, "not encrypted"},
		{[]string{"--vault-addr=https://u:secret@vault.example.com"}, "--vault-addr"},
		{[]string{"--vault-addr=https://v,https://V:443"}, "twice"},
		{[]string{"--vault-namespace=a/../b"}, "--vault-namespace"},
		{[]string{"--vault-client-cert=/c"}, "--vault-client-key"},
		{[]string{"--vault-ca-cert=ca.pem"}, "--vault-ca-cert"},
		{[]string{"--listen=/run/a/b"}, "--listen"},
		{[]string{"--listen=unix:///@abstract"}, "abstract"},
		{[]string{"--listen=unix:///tmp/kms.sock"}, "/tmp"},
		{[]string{"--listen=unix:///run/kms.sock"}, "a directory of its own"},
		{[]string{"--listen=unix:///" + strings.Repeat("x", 108)}, "107"},
		{[]string{"--allowed-uids=root"}, "--allowed-uids"},
		{[]string{"--health-addr=8080"}, "--health-addr"},
		{[]string{"--log-level=loud"}, "--log-level"},
		{[]string{"--log-format=xml"}, "--log-format"},
		{[]string{"--transit-mount=../x"}, "--transit-mount"},
		{[]string{"--transit-key="}, "--transit-key"},
		{[]string{"--transit-key=a/b"}, "--transit-key"},
		{[]string{"--transit-key=a?b"}, "--transit-key"},
		{[]string{"--cluster-id="}, "--cluster-id"},
		{[]string{"--cluster-id=a b"}, "--cluster-id"},
		{[]string{"--key-epoch=a\nb"}, "--key-epoch"},
		{[]string{"--call-timeout=1m"}, "--call-timeout"},
		{[]string{"--poll-interval=0s"}, "--poll-interval"},
		{[]string{"--outage-limit=1s"}, "--outage-limit"},
		{[]string{"--auth-method="}, "--auth-method"},
		{[]string{"--auth-method=userpass"}, "approle, cert, jwt or token-file"},
		{[]string{"--auth-method=jwt"}, "--role-id"},
		{[]string{"--auth-method=jwt", "--role-id=", "--secret-id-file="}, "--auth-role"},
		{[]string{"--auth-method=jwt", "--role-id=", "--secret-id-file=", "--auth-role=r"}, "--jwt-file"},
		{[]string{"--auth-method=cert", "--role-id=", "--secret-id-file="}, "--vault-client-cert"},
		{[]string{"--auth-method=token-file", "--role-id=", "--secret-id-file="}, "--token-file"},
		{[]string{"--auth-method=token-file", "--role-id=", "--secret-id-file=", "--token-file=/t", "--auth-inline"}, "--auth-inline"},
		{[]string{"--token-file=/t"}, "--token-file"},
		{[]string{"--role-id="}, "--role-id"},
		{[]string{"--secret-id-file=s"}, "--secret-id-file"},
		{[]string{"--auth-mount=a//b"}, "--auth-mount"},
	} {
		// A later flag wins, but for lists.
		args := good()
		if strings.HasPrefix(tc.args[0], "--vault-addr") {
			args = args[1:]
		}
		_, err := load(t, append(args, tc.args...), nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%q: %v, want %q", tc.args, err, tc.want)
		}
	}
}

func TestBadSources(t *testing.T) {
	for text, want := range map[string]string{
		"transitkey: x":                  `:1: there is no setting "transitkey"`,
		"transit-key: x":                 "camel case",
		"\ntransitKey: a\ntransitKey: b": ":3: transitKey is there twice",
		"transitKey: {a: b}":             ":1: transitKey",
		"keyEpoch: [a, b]":               "one value",
		"transitKey: null":               ":1: transitKey",
		"pollInterval: soon":             "a time such as 30s",
		"localKey: maybe":                "true or false",
		"- a":                            ":1: must hold settings",
		"a: b\n---\nc: d":                "one document",
		"a: [":                           "is not YAML",
		"a: &x b\nc: *x":                 "there is no setting",
		"config: /other":                 `there is no setting "config"`,
		strings.Repeat("#", 65<<10):      "larger",
	} {
		if _, err := load(t, good("--config="+file(t, text)), nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "config") {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	for _, path := range []string{"/nowhere/config.yaml", t.TempDir(), "/dev/zero"} {
		if _, err := load(t, good("--config="+path), nil); err == nil || !strings.Contains(err.Error(), "--config") {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		if _, err := load(t, good("--config="+file(t, text)), nil); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	testkit.Error(load(t, good(), map[string]string{"MAYFLY_KMS_POLL_INTERVAL": "soon"}))(t, "MAYFLY_KMS_POLL_INTERVAL")
}

// Every flag's help names its environment variable, and the file accepts it.
func TestNames(t *testing.T) {
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.Register(flags)
	count := 0
	flags.VisitAll(func(f *pflag.Flag) {
		count++
		testkit.Has(t, f.Usage, "["+config.EnvName(f.Name)+"]")
	})
	if count < 30 || config.YAMLName("secret-id-file") != "secretIdFile" || config.EnvName("secret-id-file") != "MAYFLY_KMS_SECRET_ID_FILE" {
		t.Errorf("%d flags", count)
	}
}

// FuzzFile: a file gives a complete configuration or an error that names the file.
func FuzzFile(f *testing.F) {
	f.Add("transitKey: a\nvaultAddr: [https://a]\n")
	f.Add("a: &x b\nc: *x")
	f.Add("transitKey: !!binary aGk=\n")
	f.Add("listen: \"unix:///run/\\0/x\"")
	f.Add("? [a]\n: b")
	f.Add("<<: {transitKey: a}")
	f.Fuzz(func(t *testing.T, text string) {
		path := file(t, text)
		c, err := load(t, good("--config="+path), nil)
		switch {
		case err == nil && (c.Transit.Key != "k" || c.Transit.ClusterID != "c" || len(c.Vault.Addresses) == 0 || !filepath.IsAbs(c.Serve.Socket) || c.Timing.Poll < time.Second):
			t.Errorf("%+v", c)
		case err != nil && !strings.Contains(err.Error(), "--"):
			t.Errorf("the error names no setting: %v", err)
		}
	})
}
