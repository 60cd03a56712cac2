// Package compat has manifests of the ecosystem as data: one file for each case, with the public
// thread that it comes from, the store's content, the class, and what a pod must see. The tests of
// package wire run them against a real Vault, a double of Akeyless or a provider plugin.
// docs/compatibility.md is generated from them, and from the cases of Kubernetes Secrets, which the
// tests of package secretsync run against a real API server.
//
// $CASE in a file stands for the case's name, so that cases share one store and do not meet.
package compat

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Case is one manifest and its expected result.
type Case struct {
	// Name is the file's name, without its extension.
	Name string `yaml:"-"`
	// Title describes the case, in a few words.
	Title string `yaml:"title"`
	// Source is the thread that it comes from, as "repository number".
	Source string `yaml:"source"`
	// Result describes Mayfly's behaviour, in a few words.
	Result string `yaml:"result"`
	// Differs says that Mayfly differs from the source's driver on purpose.
	Differs bool `yaml:"differs"`

	Vault    Vault    `yaml:"vault"`
	Akeyless Akeyless `yaml:"akeyless"`
	Plugin   Plugin   `yaml:"plugin"`

	// Class is the manifest of the SecretProviderClass.
	Class string `yaml:"class"`
	// Want is the expected state after the publish.
	Want Want `yaml:"want"`
	// Steps come after it, in order.
	Steps []Step `yaml:"steps"`
}

// Vault is the real Vault's content. The role $CASE of auth/kubernetes has the policy.
type Vault struct {
	Policy string `yaml:"policy"`
	// Role overrides fields of the role.
	Role map[string]any `yaml:"role"`
	// Mounts are engines by path: their types, such as pki or ssh.
	Mounts map[string]string `yaml:"mounts"`
	// Writes are done as root, in order.
	Writes []Write `yaml:"writes"`
	// Answers replace Vault's own at a path below /v1/, in order; the last one is repeated.
	Answers map[string][]Answer `yaml:"answers"`
}

// Write is one write as root.
type Write struct {
	Path string         `yaml:"path"`
	Data map[string]any `yaml:"data"`
}

// Answer is an answer of a proxy before Vault.
type Answer struct {
	Status int    `yaml:"status"` // 0 means 200
	Type   string `yaml:"type"`   // empty means application/json
	Body   string `yaml:"body"`
}

// Akeyless are the items of the double that the pod may read, by name.
type Akeyless struct {
	Static  map[string]any           `yaml:"static"`
	Rotated map[string]any           `yaml:"rotated"`
	Dynamic map[string]time.Duration `yaml:"dynamic"`
}

// Plugin is the answer of a provider plugin with the name "compat".
type Plugin struct {
	Files    []File    `yaml:"files"`
	Versions []Version `yaml:"versions"`
	// Strict makes it refuse unknown attributes, except these.
	Strict []string `yaml:"strict"`
}

// File is one file of a plugin's answer.
type File struct {
	Path     string `yaml:"path"`
	Contents string `yaml:"contents"`
	Mode     int32  `yaml:"mode"`
}

// Version is one version of a plugin's answer.
type Version struct {
	ID      string `yaml:"id"`
	Version string `yaml:"version"`
}

// Want is what a pod and its author see.
type Want struct {
	// Error are words that the refusal must have; empty for a successful publish.
	Error []string `yaml:"error"`
	// Files are all files, by name, with their contents.
	Files map[string]string `yaml:"files"`
	// Begins are files and the beginning of their content.
	Begins map[string]string `yaml:"begins"`
	// Modes are files' modes.
	Modes map[string]uint32 `yaml:"modes"`
	// KeyPair are the files of a certificate and its key, which must fit.
	KeyPair []string `yaml:"keyPair"`
	// Same are files that must not have changed since the last step, and Changed those that must
	// have.
	Same    []string `yaml:"same"`
	Changed []string `yaml:"changed"`
	// Requests are how often Vault received requests for a path since the last step: as "0", ">=1"
	// or "<=2".
	Requests map[string]string `yaml:"requests"`
	// Warnings are words that the warnings of the class must have.
	Warnings []string `yaml:"warnings"`
}

// Step is an event for a running pod, and the expected state within a minute.
type Step struct {
	Write Write `yaml:"write"`
	// Refreshes waits until the volume was refreshed so often.
	Refreshes int `yaml:"refreshes"`
	// Now refreshes by hand.
	Now bool `yaml:"now"`
	// Class is an edit.
	Class string `yaml:"class"`
	Want  Want   `yaml:"want"`
}

// SecretCase is one case of Kubernetes Secrets: a manifest and what comes of it, or the name of the
// test that shows a behaviour for which a manifest is not enough.
type SecretCase struct {
	Name    string `yaml:"-"`
	Title   string `yaml:"title"`
	Source  string `yaml:"source"`
	Result  string `yaml:"result"`
	Differs bool   `yaml:"differs"`

	// Class is the manifest, and Files are those of the volume, by name. $CERTIFICATE and $KEY in
	// them, and in Want, are a certificate and its private key.
	Class string            `yaml:"class"`
	Files map[string]string `yaml:"files"`
	// Want are the Secrets, by name.
	Want map[string]Secret `yaml:"want"`
	// Refused are words that the Event has; empty if the Secrets are written.
	Refused []string `yaml:"refused"`

	// Test is the test of the behaviour.
	Test Test `yaml:"test"`
}

// Secret is what a Secret has.
type Secret struct {
	Type        string            `yaml:"type"`
	Data        map[string]string `yaml:"data"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Test names a case of a test, and the directory of its package.
type Test struct {
	Package string `yaml:"package"`
	Name    string `yaml:"name"`
}

// LoadSecrets reads all cases of Kubernetes Secrets of a directory.
func LoadSecrets(dir string) ([]SecretCase, error) { return load(dir, parseSecret) }

// Load reads all cases of a directory.
func Load(dir string) ([]Case, error) { return load(dir, parse) }

func load[C any](dir string, parse func(name string, text []byte) (C, error)) ([]C, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	cases := make([]C, 0, len(files))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c, err := parse(strings.TrimSuffix(filepath.Base(file), ".yaml"), text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func parse(name string, text []byte) (Case, error) {
	c := Case{Name: name}
	if err := decode(name, text, &c); err != nil {
		return c, err
	}
	if c.Class == "" {
		return c, fmt.Errorf("class is needed")
	}
	return c, checkRow(c.Title, c.Source, c.Result)
}

func parseSecret(name string, text []byte) (SecretCase, error) {
	c := SecretCase{Name: name}
	if err := decode(name, text, &c); err != nil {
		return c, err
	}
	switch {
	case c.Class != "" && (len(c.Want) > 0) == (len(c.Refused) > 0):
		return c, fmt.Errorf("a class needs either want or refused")
	case c.Class == "" && c.Test.Name == "" && !c.Differs:
		return c, fmt.Errorf("class or test is needed")
	}
	return c, checkRow(c.Title, c.Source, c.Result)
}

func decode(name string, text []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(bytes.ReplaceAll(text, []byte("$CASE"), []byte(name))))
	d.KnownFields(true)
	return d.Decode(into)
}

func checkRow(title, source, result string) error {
	switch {
	case title == "", source == "", result == "":
		return fmt.Errorf("title, source and result are needed")
	case strings.ContainsAny(title+source+result, "\n|"):
		return fmt.Errorf("title, source and result are one line each, for a table")
	}
	return nil
}

// Table is docs/compatibility.md.
func Table(cases []Case, secrets []SecretCase) string {
	var b strings.Builder
	b.WriteString(`# Compatibility with manifests of other projects

<!-- Generated from test/compat/cases by "go test ./test/compat -update". Do not edit. -->

Each row is a manifest or a response of a store that users reported. CI tests it with every change, against a real Vault, a test double of Akeyless' API or a provider plugin. A number is that of the public issue. To add a row, add a file with your manifest to test/compat/cases.
`)
	writeTables(&b, cases, Case.row, "## Works", "## Differs on purpose")
	b.WriteString(`
## Kubernetes Secrets

[Kubernetes Secrets](secrets.md) of classes with ` + "`secretObjects`" + `: manifests of the Secrets Store CSI driver, and what its users reported. CI tests these rows on a real API server with the garbage collector, and those about env and imagePullSecrets with a real kubelet. To add a row, add a file to test/compat/secrets.
`)
	writeTables(&b, secrets, SecretCase.row, "### Secrets that work", "### Secrets that differ on purpose")
	return b.String()
}

func (c Case) row() (string, bool)       { return row(c.Title, c.Source, c.Result), c.Differs }
func (c SecretCase) row() (string, bool) { return row(c.Title, c.Source, c.Result), c.Differs }

func row(title, source, result string) string {
	return fmt.Sprintf("| %s | %s | %s |\n", title, source, result)
}

// writeTables writes one table of the cases that work, and one of those that differ.
func writeTables[C any](b *strings.Builder, cases []C, row func(C) (text string, differs bool), works, differs string) {
	for _, head := range []string{works, differs} {
		fmt.Fprintf(b, "\n%s\n\n| What | Reported in | Here |\n|---|---|---|\n", head)
		for _, c := range cases {
			if text, other := row(c); other == (head == differs) {
				b.WriteString(text)
			}
		}
	}
}
