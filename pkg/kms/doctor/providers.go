package doctor

import (
	"fmt"
	"os"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/kms/encryptionconfig"
	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
)

const titleProviders = "EncryptionConfiguration's provider"

// providers compares the API server's file with this plugin.
func (d *doctor) providers(c encryptionconfig.Config) {
	endpoint := probe.Scheme + d.Config.Serve.Socket
	name, err := c.Name(endpoint)
	if err != nil {
		d.Add(report.Failed, titleProviders, fmt.Sprintf("write endpoint: %s into the file, or the file's socket into --listen", endpoint), "%v", err)
		return
	}
	good := true
	for i, rule := range c.Rules {
		at := -1
		for j, p := range rule.Providers {
			if p.Is(endpoint) {
				at = j
				good = d.provider(fmt.Sprintf("resources[%d].providers[%d]", i, j), p) && good
			}
		}
		if at >= 0 {
			good = d.order(fmt.Sprintf("resources[%d]", i), rule, at) && good
		}
	}
	good = d.secrets(c, endpoint) && good
	if good {
		d.Good(titleProviders, "%s encrypts %s", name, strings.Join(c.Resources(name), ", "))
	}
	if info, err := os.Stat(d.EncryptionConfig); err == nil && c.HasKeys && info.Mode().Perm()&0o077 != 0 {
		d.Add(report.Failed, "EncryptionConfiguration's mode", "chmod 0600 "+d.EncryptionConfig, "static keys are in the file, and its mode is %04o", info.Mode().Perm())
	}
}

// provider checks the entry of this plugin.
func (d *doctor) provider(place string, p encryptionconfig.Provider) bool {
	title := titleProviders + " at " + place
	good := true
	refuse := func(remedy, detail string, args ...any) {
		good = false
		d.Add(report.Failed, title, remedy, detail, args...)
	}
	if p.Kind != stored.KMSv2 {
		refuse("write apiVersion: v2", "the provider is KMS v1, which the API server refuses since 1.29, and this plugin does not speak")
	}
	if p.CacheSize {
		refuse("take cachesize out", "cachesize is set, which the API server refuses with v2")
	}
	if p.Name == "" || strings.Contains(p.Name, ":") {
		refuse("give it a name without a colon, and never change it: it is a part of each stored value", "the name %q cannot be used", p.Name)
	}
	if strings.HasPrefix(p.Endpoint, probe.Scheme+"/@") {
		refuse("use a path such as unix:///run/mayfly-kms/kms.sock", "the endpoint is an abstract socket, which any process of the node may open")
	}
	if calls := d.Config.Timing.CallTimeout; p.Timeout <= calls {
		refuse("raise timeout there, or lower --call-timeout", "the API server waits for %s, and the plugin for Vault %s", p.Timeout, calls)
	}
	return good
}

// order checks the providers before and after this plugin.
func (d *doctor) order(place string, rule encryptionconfig.Rule, at int) bool {
	title := titleProviders + " order at " + place
	if at == 0 {
		return true
	}
	first := rule.Providers[0]
	if first.Kind == stored.Identity {
		d.Add(report.Failed, title, "put identity last, restart the API servers one by one, and run mayfly-kms migrate",
			"identity is the first provider, so new values of %s are written as plain text", strings.Join(rule.Resources, ", "))
		return false
	}
	d.Add(report.Failed, title, "put this plugin first once every API server has it, then run mayfly-kms migrate",
		"%s is the first provider, so it writes the new values of %s", first, strings.Join(rule.Resources, ", "))
	return false
}

// secrets checks that Secrets are encrypted.
func (d *doctor) secrets(c encryptionconfig.Config, endpoint string) bool {
	rule, ok := c.For(scan.Resource{Name: "secrets"})
	title := titleProviders + " of secrets"
	if !ok {
		d.Add(report.Failed, title, "add secrets to the resources of the provider", "no rule names secrets, so they are plain text")
		return false
	}
	for _, p := range rule.Providers {
		if p.Is(endpoint) {
			return true
		}
	}
	d.Add(report.Failed, title, "the first rule that names a resource counts: put this plugin's rule before it", "the rule that counts for secrets does not have this plugin")
	return false
}
