package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/pluginprovider"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	namespace = "bench"
	role      = "bench"
)

// The classes. All have the same three files of their own secrets.
const (
	// steady has no interval of its own, so that nothing is due while it is measured; changing has
	// config.interval.
	steady   = "steady"
	changing = "changing"
	// made is steady with a template and a Kubernetes Secret.
	made = "made"
	// resting has config.steadyInterval, and what made has.
	resting = "resting"
	// cutOff reaches Vault through the gate, and has outageInterval.
	cutOff = "cutoff"
	// keyless is of Akeyless, plugged of the provider plugin.
	keyless = "keyless"
	plugged = "plugged"
)

// audience is the audience of the service account tokens for a class.
func audience(class string) string {
	switch class {
	case keyless:
		return "akeyless"
	case plugged:
		return pluginprovider.DefaultAudience
	}
	return "vault"
}

// world is the environment of the driver and the floor.
type world struct {
	config
	// dir is a tmpfs, because the measurement should not include the disk below the pods'
	// directories, which are made and removed in great numbers here.
	dir    string
	binary string
	plugin string // the program of the provider plugin
	vault  *vaulttest.Server
	issuer *issuer.Issuer
	api    cluster
	// gate is the proxy before Vault for the class cutOff.
	gate *testkit.Proxy
	// akeyless is the double of a gateway.
	akeyless *akeylessd.Server
	testkit.Cleanup
}

// secrets are the distinct reads of a pod, by path; each is read once, although
// two files come from the first.
func secrets(class string) []string { return []string{class + "/db", class + "/api"} }

// wanted is a volume's expected content.
func wanted(class, value string) map[string]string {
	files := map[string]string{"db/username": class + "-user", "db/password": "password-" + value, "api-key": "key-" + value}
	if class == made || class == resting {
		files["dsn"] = "db://" + files["db/username"] + ":" + files["db/password"] + "@db"
	}
	return files
}

func newWorld(ctx context.Context, c config, dir string) (_ *world, err error) {
	w := &world{config: c, dir: filepath.Join(dir, "run"), binary: c.driver, plugin: filepath.Join(dir, pluginName)}
	if w.binary == "" {
		w.binary = filepath.Join(dir, "mayfly-node")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := mountScratch(w.dir); err != nil {
		return nil, err
	}
	if w.issuer, err = issuer.Start(ctx, issuer.Options{}); err != nil {
		return nil, fmt.Errorf("starting the issuer of service account tokens: %w", err)
	}
	w.Add(w.issuer.Close)
	if w.vault, err = vaulttest.Start(ctx, vaulttest.Options{
		PreferInstalled: true, Progress: os.Stderr, AuditFile: filepath.Join(w.dir, "audit.log"),
	}); err != nil {
		return nil, err
	}
	w.Add(w.vault.Stop)
	if err := w.fillVault(ctx); err != nil {
		return nil, fmt.Errorf("setting Vault up: %w", err)
	}
	w.gate = testkit.StartProxy(w.vault.Address)
	w.Add(func() error { w.gate.Close(); return nil })
	if err := w.startAkeyless(ctx); err != nil {
		return nil, fmt.Errorf("starting the double of Akeyless: %w", err)
	}
	w.Add(w.akeyless.Close)
	if w.api, err = w.startAPI(ctx); err != nil {
		return nil, err
	}
	w.Add(w.api.Close)
	if err := w.writeFiles(); err != nil {
		return nil, err
	}
	return w, nil
}

// mountScratch needs no undoing: the sandbox removes its mounts.
func mountScratch(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bench", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting a tmpfs at %q: %w", dir, err)
	}
	return nil
}

// fillVault grants what operators usually grant: to read the secrets, and not their metadata.
func (w *world) fillVault(ctx context.Context) error {
	v := w.vault
	err := errors.Join(
		v.EnableKubernetesAuth(ctx, "kubernetes", w.issuer), v.EnableKV(ctx, "kv", 2),
		v.Policy(ctx, "bench", `path "kv/data/*" { capabilities = ["read"] }`),
		v.Bind(ctx, role, "*", namespace, "bench", nil),
	)
	for _, class := range []string{steady, made, changing, resting, cutOff} {
		err = errors.Join(err, w.put(ctx, class, "1"))
	}
	return err
}

// put writes a class's secrets.
func (w *world) put(ctx context.Context, class, value string) error {
	files := wanted(class, value)
	paths := secrets(class)
	err := w.vault.PutKV2(ctx, "kv", paths[0], map[string]any{"username": files["db/username"], "password": files["db/password"]})
	if err != nil {
		return err
	}
	return w.vault.PutKV2(ctx, "kv", paths[1], map[string]any{"key": files["api-key"]})
}

// manifests are the classes, as JSON.
func (w *world) manifests() map[string][]byte {
	vault := func(class, address, interval string) []byte {
		parameters := vaultParameters(class, address, interval)
		if class == made || class == resting {
			parameters["templates"] = madeTemplates
			return manifest(namespace, class, "vault", parameters, madeSecret(class))
		}
		return manifest(namespace, class, "vault", parameters)
	}
	return map[string][]byte{
		steady:   vault(steady, w.vault.Address, ""),
		made:     vault(made, w.vault.Address, ""),
		changing: vault(changing, w.vault.Address, w.interval.String()),
		resting:  vault(resting, w.vault.Address, w.steadyInterval.String()),
		cutOff:   vault(cutOff, w.gate.URL, w.outageInterval().String()),
		keyless:  manifest(namespace, keyless, "akeyless", akeylessParameters(keyless, w.akeyless.URL())),
		plugged:  manifest(namespace, plugged, pluginName, pluginParameters()),
	}
}

// writeFiles writes the driver's configuration: a kubeconfig, and a directory with the same
// classes.
func (w *world) writeFiles() error {
	if err := os.WriteFile(w.kubeconfig(), w.api.Kubeconfig(), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(w.classDir(), 0o755); err != nil {
		return err
	}
	for name, data := range w.manifests() {
		if err := os.WriteFile(filepath.Join(w.classDir(), name+".json"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) kubeconfig() string { return filepath.Join(w.dir, "kubeconfig") }
func (w *world) classDir() string   { return filepath.Join(w.dir, "classes") }

// pods makes pods with their tokens. Every label gives other pods and other service accounts, so
// that no round benefits from an earlier one.
func (w *world) pods(label, class string, accounts int) []kubelet.Pod {
	return w.somePods(w.config.pods, label, class, accounts)
}

func (w *world) somePods(count int, label, class string, accounts int) []kubelet.Pod {
	pods := make([]kubelet.Pod, count)
	for i := range pods {
		name := fmt.Sprintf("%s-%d", label, i)
		sum := sha256.Sum256([]byte(name))
		ref := issuer.PodRef{
			Namespace: namespace, Pod: name, PodUID: fmt.Sprintf("%x-%x-4%x-8%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]),
			ServiceAccount: fmt.Sprintf("%s-%d", label, i%accounts), Node: "node-a",
		}
		pods[i] = kubelet.Pod{
			Namespace: namespace, Name: name, UID: ref.PodUID, ServiceAccount: ref.ServiceAccount, Class: class,
			Tokens: w.issuer.CSITokens(ref, audience(class)),
		}
	}
	return pods
}
