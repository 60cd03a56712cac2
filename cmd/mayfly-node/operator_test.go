package main

import (
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/cli/operator"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestOperator: kubectl mayfly reads the flags that are about stores as the
// driver does, from the command line and from the environment.
func TestOperator(t *testing.T) {
	// These flags concern the process, not the limits for classes.
	passed := map[string]bool{
		"vault-request-timeout": true, "vault-disable-revocation": true, "vault-max-retries": true, "akeyless-request-timeout": true,
		"akeyless-disable-revocation": true, "akeyless-share-by-service-account": true,
	}
	values := []string{"https://one.example,https://two.example:8200", "true"}
	seen := 0
	for _, g := range (&options{}).declare().groups {
		for _, f := range g.flags {
			if !strings.HasPrefix(f.Name, "vault-") && !strings.HasPrefix(f.Name, "akeyless-") && f.Name != "allow-local-addresses" && f.Name != "class-file-dirs" || passed[f.Name] {
				continue
			}
			value := values[0]
			if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
				value = values[1]
			}
			seen++
			sameSettings(t, f.Name, []string{"--" + f.Name + "=" + value}, nil)
			if value == values[0] {
				sameSettings(t, f.Name, []string{"-" + f.Name, value}, nil)
			} else {
				sameSettings(t, f.Name, []string{"--" + f.Name}, nil)
			}
			for _, name := range strings.Fields(g.env[f.Name]) {
				sameSettings(t, name, nil, map[string]string{name: value})
				sameSettings(t, name, []string{"--" + f.Name + "=" + strings.TrimSuffix(value, ":8200")}, map[string]string{name: value})
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d flags", seen)
	}
}

func sameSettings(t *testing.T, what string, args []string, env map[string]string) {
	t.Helper()
	// The flags have the same defaults as the providers, except for the names.
	base, err := parse(nil, func(string) string { return "" }, io.Discard)
	testkit.Must(t, err)
	o, err := parse(args, func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got := operator.Parse(args, env)
	if reflect.DeepEqual(o.config.Vault, base.config.Vault) && reflect.DeepEqual(o.config.Akeyless, base.config.Akeyless) {
		t.Errorf("%s changes nothing in the driver", what)
	}
	want := o.config
	got.Vault.Name, got.Vault.Settings = want.Vault.Name, want.Vault.Settings
	got.Akeyless.Settings = want.Akeyless.Settings
	if got.Vault.DefaultAuthMount == "" {
		got.Vault.DefaultAuthMount = base.config.Vault.DefaultAuthMount
	}
	if got.Akeyless.DefaultAudience == "" {
		got.Akeyless.DefaultAudience = base.config.Akeyless.DefaultAudience
	}
	again := operator.Parse(args, env)
	if again.Vault.AllowLocalAddresses != want.Vault.AllowLocalAddresses || !reflect.DeepEqual(again.Akeyless.ClassFileDirs, want.Akeyless.ClassFileDirs) {
		t.Errorf("%s: local addresses %v, class files %q", what, again.Vault.AllowLocalAddresses, again.Akeyless.ClassFileDirs)
	}
	if !reflect.DeepEqual(got.Vault, want.Vault) || !reflect.DeepEqual(got.Akeyless, want.Akeyless) {
		t.Errorf("%s: read as\n%+v\nwant\n%+v", what, got, want.Vault)
	}
}
