package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	namespace   = "shop"
	className   = "web-secrets"
	volumeName  = "secrets"
	oldPassword = "correct-horse"
	newPassword = "battery-staple"
)

// policy lets a pod read its secrets and their metadata, so that a look at the version can save a
// read.
const policy = `
path "secret/data/web/*"     { capabilities = ["read"] }
path "secret/metadata/web/*" { capabilities = ["read"] }
`

// world is everything that runs, and the two pods.
type world struct {
	options
	dir string

	issuer  *issuer.Issuer
	vault   *vaulttest.Server
	driver  *driver.Process
	kubelet *kubelet.Kubelet

	web, batch kubelet.Pod
	// published is the mark in Vault's audit log just before the publish.
	published vaulttest.Mark
	testkit.Cleanup
}

// file is one that the pod shall see.
type file struct {
	path, contents string
	mode           os.FileMode
}

func files(password string) []file {
	return []file{
		{"api-key", "4f5e-91c2", 0o440},
		{"db/password", password, 0o400},
		{"db/username", "web-app", 0o644},
	}
}

func (w *world) classes() string { return filepath.Join(w.dir, "classes") }
func (w *world) socket() string  { return driver.Socket(w.dir) }
func (w *world) state() string   { return filepath.Join(w.dir, "state") }

// manifest is the class. Its parameters are those of vault-csi-provider, except for
// refreshInterval, which is Mayfly's.
func (w *world) manifest() string {
	return fmt.Sprintf(`apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: %s
  namespace: %s
spec:
  provider: vault
  parameters:
    vaultAddress: %s
    roleName: web
    refreshInterval: 1s
    objects: |
      - objectName: db/username
        secretPath: secret/data/web/db
        secretKey: username
      - objectName: db/password
        secretPath: secret/data/web/db
        secretKey: password
        filePermission: 0400
      - objectName: api-key
        secretPath: secret/data/web/api
        secretKey: key
        filePermission: 0440
`, className, namespace, w.vault.Address)
}

// startVault starts the store, and the issuer of its service account tokens.
func (w *world) startVault(ctx context.Context) (err error) {
	if w.issuer, err = issuer.Start(ctx, issuer.Options{}); err != nil {
		return fmt.Errorf("starting the issuer of service account tokens: %w", err)
	}
	w.Add(w.issuer.Close)
	w.vault, err = vaulttest.Start(ctx, vaulttest.Options{PreferInstalled: true, Progress: os.Stdout})
	if err != nil {
		return err
	}
	w.Add(w.vault.Stop)
	return w.fillVault(ctx)
}

func (w *world) fillVault(ctx context.Context) error {
	v := w.vault
	err := errors.Join(
		v.EnableKubernetesAuth(ctx, "kubernetes", w.issuer), v.EnableKV(ctx, "secret", 2), v.Policy(ctx, "web", policy),
		v.Bind(ctx, "web", "web", namespace, "web", nil),
		w.setPassword(ctx, oldPassword), v.PutKV2(ctx, "secret", "web/api", map[string]any{"key": "4f5e-91c2"}),
	)
	if err != nil {
		return fmt.Errorf("setting Vault up: %w", err)
	}
	return nil
}

func (w *world) setPassword(ctx context.Context, password string) error {
	return w.vault.PutKV2(ctx, "secret", "web/db", map[string]any{"username": "web-app", "password": password})
}

func (w *world) startDriver(ctx context.Context) (err error) {
	if err := os.MkdirAll(w.classes(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.classes(), className+".yaml"), []byte(w.manifest()), 0o644); err != nil {
		return err
	}
	var logs io.Writer
	if w.options.logs {
		logs = os.Stderr
	}
	w.driver, err = driver.Start(ctx, driver.Options{
		Binary: w.options.driver, Dir: w.dir, Logs: logs,
		Args: []string{"--class-dir=" + w.classes(), "--vault-allowed-addresses=" + w.vault.Address},
	})
	if err != nil {
		return err
	}
	w.Add(w.driver.Stop)
	if w.kubelet, err = kubelet.Dial(filepath.Join(w.dir, "kubelet"), w.socket()); err == nil {
		w.Add(w.kubelet.Close)
	}
	return err
}

// pod makes a pod with the tokens that kubelet gets for it.
func (w *world) pod(name, serviceAccount, uid string) kubelet.Pod {
	return kubelet.Pod{
		Namespace: namespace, Name: name, UID: uid, ServiceAccount: serviceAccount, Volume: volumeName, Class: className,
		Tokens: w.issuer.CSITokens(issuer.PodRef{Namespace: namespace, Pod: name, PodUID: uid, ServiceAccount: serviceAccount, Node: "node-a"}, "vault"),
	}
}

// logs explains a failure with the driver's log.
func (w *world) logs() string {
	if w.driver == nil || w.driver.Said() == "" {
		return ""
	}
	return "\n\nThe driver's log ends with:\n" + w.driver.Said()
}

type mountFacts struct {
	target, fsType, source, options string
}

// findMount asks findmnt, and the kernel itself where there is none.
func findMount(ctx context.Context, s *screen, target string) (mountFacts, error) {
	if path, err := exec.LookPath("findmnt"); err == nil {
		s.ran("findmnt --mountpoint %s", target)
		return askFindmnt(ctx, path, target)
	}
	s.ran("grep %s /proc/self/mountinfo", target)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mountFacts{}, fmt.Errorf("listing mounts: %w", err)
	}
	return parseMountInfo(string(data), target)
}

func askFindmnt(ctx context.Context, path, target string) (mountFacts, error) {
	out, err := exec.CommandContext(ctx, path, "--raw", "--noheadings", "--mountpoint", target, "--output", "FSTYPE,SOURCE,OPTIONS").CombinedOutput()
	if err != nil {
		return mountFacts{}, fmt.Errorf("running findmnt: %w: nothing seems to be mounted at %q: %s", err, target, out)
	}
	fields := strings.Fields(string(out))
	if len(fields) != 3 {
		return mountFacts{}, fmt.Errorf("reading findmnt's answer: %q has not three words", out)
	}
	return mountFacts{target, fields[0], fields[1], fields[2]}, nil
}

// parseMountInfo finds the last, so the topmost, mount at target. The format is that of
// proc_pid_mountinfo(5).
func parseMountInfo(text, target string) (mountFacts, error) {
	found := mountFacts{}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		mount, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 6 || len(fs) < 3 || mount[4] != target {
			continue
		}
		options := slices.Compact(append(strings.Split(mount[5], ","), strings.Split(fs[2], ",")...))
		found = mountFacts{target, fs[0], fs[1], strings.Join(options, ",")}
	}
	if found.target == "" {
		return found, fmt.Errorf("nothing is mounted at %q", target)
	}
	return found, nil
}

func (m mountFacts) table() string {
	return fmt.Sprintf("TARGET   %s\nFSTYPE   %s\nSOURCE   %s\nOPTIONS  %s\n", m.target, m.fsType, m.source, m.options)
}

func (m mountFacts) has(option string) bool {
	return slices.ContainsFunc(strings.Split(m.options, ","), func(o string) bool {
		return o == option || strings.HasPrefix(o, option+"=")
	})
}

// check refuses a mount that breaks one of Mayfly's promises.
func (m mountFacts) check(target string) error {
	if m.fsType != "tmpfs" || m.source != tmpfs.Source {
		return fmt.Errorf("%q is a %s from %q, not a tmpfs from %q", target, m.fsType, m.source, tmpfs.Source)
	}
	for _, option := range []string{"nosuid", "nodev", "noexec", "size", "nr_inodes"} {
		if !m.has(option) {
			return fmt.Errorf("the mount at %q has no option %s, but only %s", target, option, m.options)
		}
	}
	return nil
}

// swap says whether the contents can be swapped out. The kernel grants noswap only to the machine's
// own root.
func (m mountFacts) swap() string {
	switch {
	case m.has("noswap"):
		return ", and never swapped out (noswap)"
	case ordinary():
		return " (noswap is for the real root: a node has it)"
	}
	return " (this kernel is older than 6.3 and has no noswap)"
}
