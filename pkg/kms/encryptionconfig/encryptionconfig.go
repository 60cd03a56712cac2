// Package encryptionconfig reads the API server's EncryptionConfiguration: which provider writes
// which resource, and where a KMS provider's socket is.
package encryptionconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
)

const (
	apiVersion = "apiserver.config.k8s.io/v1"
	kind       = "EncryptionConfiguration"
	// maxFile bounds the file in bytes.
	maxFile = 1 << 20
	// defaultTimeout is the API server's default for a KMS provider.
	defaultTimeout = 3 * time.Second
)

// Config is an EncryptionConfiguration without its keys.
type Config struct {
	Rules []Rule
	// Hash is the file's SHA-256, which is also in the API server's metric
	// apiserver_encryption_config_controller_last_config_info.
	Hash string
	// HasKeys says that static keys are in the file.
	HasKeys bool
}

// Rule is one entry of resources. The first rule that names a resource wins.
type Rule struct {
	Resources scan.Selection
	// Providers are in their order: the first one writes, all of them read.
	Providers []Provider
}

// Provider is one provider of a rule.
type Provider struct {
	Kind stored.Provider
	// The rest is for KMS only.
	Name, Endpoint string
	Timeout        time.Duration
	CacheSize      bool // says that it is set, which KMS v2 refuses
}

// Is reports whether this is the KMS provider at a socket.
func (p Provider) Is(socket string) bool { return p.Endpoint != "" && p.Endpoint == socket }

// String is the provider for people.
func (p Provider) String() string {
	if p.Name == "" {
		return string(p.Kind)
	}
	return string(p.Kind) + " " + p.Name
}

// The file in the API server's form (k8s.io/apiserver/pkg/apis/apiserver/v1).
type file struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Resources  []entry `json:"resources"`
}

type entry struct {
	Resources []string `json:"resources"`
	Providers []struct {
		AESGCM    *keys     `json:"aesgcm"`
		AESCBC    *keys     `json:"aescbc"`
		Secretbox *keys     `json:"secretbox"`
		Identity  *struct{} `json:"identity"`
		KMS       *struct {
			APIVersion string  `json:"apiVersion"`
			Name       string  `json:"name"`
			CacheSize  *int32  `json:"cachesize"`
			Endpoint   string  `json:"endpoint"`
			Timeout    *string `json:"timeout"`
		} `json:"kms"`
	} `json:"providers"`
}

type keys struct {
	Keys []struct {
		Name   string  `json:"name"`
		Secret discard `json:"secret"`
	} `json:"keys"`
}

// discard reads a value and drops it.
type discard struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (discard) UnmarshalJSON([]byte) error { return nil }

// Read reads a file.
func Read(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("opening the EncryptionConfiguration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the EncryptionConfiguration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("EncryptionConfiguration %s: %w", path, err)
	}
	return c, nil
}

// Parse parses a file's content, as strictly as the API server does. No error quotes a key.
func Parse(data []byte) (Config, error) {
	if len(data) > maxFile {
		return Config{}, fmt.Errorf("it has over %d bytes", maxFile)
	}
	var f file
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return Config{}, fmt.Errorf("the API server would refuse it: %w", err)
	}
	if f.APIVersion != apiVersion || f.Kind != kind {
		return Config{}, fmt.Errorf("apiVersion and kind must be %s and %s, not %q and %q", apiVersion, kind, f.APIVersion, f.Kind)
	}
	sum := sha256.Sum256(data)
	c := Config{Hash: "sha256:" + hex.EncodeToString(sum[:])}
	for i := range f.Resources {
		r, err := c.rule(&f.Resources[i])
		if err != nil {
			return Config{}, fmt.Errorf("resources[%d]%w", i, err)
		}
		c.Rules = append(c.Rules, r)
	}
	if len(c.Rules) == 0 {
		return Config{}, errors.New("resources: it is empty, so nothing is encrypted")
	}
	return c, nil
}

func (c *Config) rule(e *entry) (Rule, error) {
	r := Rule{Resources: e.Resources}
	if err := r.Resources.Check(); err != nil {
		return Rule{}, fmt.Errorf(".resources: %w", err)
	}
	for i := range e.Providers {
		p := &e.Providers[i]
		var found []Provider
		for kind, k := range map[stored.Provider]*keys{stored.AESGCM: p.AESGCM, stored.AESCBC: p.AESCBC, stored.Secretbox: p.Secretbox} {
			if k != nil {
				c.HasKeys = true
				found = append(found, Provider{Kind: kind})
			}
		}
		if p.Identity != nil {
			found = append(found, Provider{Kind: stored.Identity})
		}
		if k := p.KMS; k != nil {
			kms := Provider{Kind: stored.KMSv1, Name: k.Name, Endpoint: k.Endpoint, Timeout: defaultTimeout, CacheSize: k.CacheSize != nil}
			if k.APIVersion == "v2" {
				kms.Kind = stored.KMSv2
			}
			if k.Timeout != nil {
				var err error
				if kms.Timeout, err = time.ParseDuration(*k.Timeout); err != nil {
					return Rule{}, fmt.Errorf(".providers[%d].kms.timeout: must be a time such as 3s", i)
				}
			}
			found = append(found, kms)
		}
		if len(found) != 1 {
			return Rule{}, fmt.Errorf(".providers[%d]: must be one provider, not %d", i, len(found))
		}
		r.Providers = append(r.Providers, found[0])
	}
	if len(r.Providers) == 0 {
		return Rule{}, errors.New(".providers: it is empty")
	}
	return r, nil
}

// For returns the rule for a resource.
func (c *Config) For(r scan.Resource) (Rule, bool) {
	for _, rule := range c.Rules {
		if rule.Resources.Matches(r) {
			return rule, true
		}
	}
	return Rule{}, false
}

// Resources are all resources that a rule with the provider names.
func (c *Config) Resources(name string) scan.Selection {
	var all scan.Selection
	for _, rule := range c.Rules {
		if slices.ContainsFunc(rule.Providers, func(p Provider) bool { return p.Kind == stored.KMSv2 && p.Name == name }) {
			all = append(all, rule.Resources...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Want is the provider and key that values of a resource should have, if a provider of this name
// reads or writes it.
func (c *Config) Want(name string) func(scan.Resource) (scan.Want, bool) {
	return func(r scan.Resource) (scan.Want, bool) {
		rule, ok := c.For(r)
		return scan.Want{Name: name}, ok && slices.ContainsFunc(rule.Providers, func(p Provider) bool {
			return p.Kind == stored.KMSv2 && p.Name == name
		})
	}
}

// Name finds the name of the provider at a socket.
func (c *Config) Name(socket string) (string, error) {
	var names, others []string
	for _, rule := range c.Rules {
		for _, p := range rule.Providers {
			if p.Is(socket) {
				names = append(names, p.Name)
			} else if p.Endpoint != "" {
				others = append(others, p.Endpoint)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(names) == 1:
		return names[0], nil
	case len(names) > 1:
		return "", fmt.Errorf("the endpoint %s is there under several names: %s", socket, strings.Join(names, ", "))
	case len(others) > 0:
		return "", fmt.Errorf("no KMS provider has the endpoint %s; there are %s", socket, strings.Join(others, ", "))
	}
	return "", errors.New("it has no KMS provider")
}
