package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/apiserver"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// The namespaces of the two tenants.
const (
	shop = "shop"
	evil = "evil"
)

const nodeName = "node-a"

type world struct {
	config
	dir    string
	binary string

	issuer  *issuer.Issuer
	vault   *vaulttest.Server
	proxy   *proxy
	api     *apiserver.Server
	kubelet *kubelet.Kubelet

	healthAddr, metricsAddr string
	// allowed are the addresses that classes may name.
	allowed []string
	log     *logCounter
	testkit.Cleanup
}

func silent() *log.Logger { return log.New(io.Discard, "", 0) }

func newWorld(ctx context.Context, c config, dir, binary string) (w *world, err error) {
	w = &world{config: c, dir: dir, binary: binary, log: &logCounter{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return nil, err
	}
	if w.issuer, err = issuer.Start(ctx, issuer.Options{}); err != nil {
		return nil, fmt.Errorf("starting the issuer of service account tokens: %w", err)
	}
	w.Add(w.issuer.Close)
	if w.vault, err = vaulttest.Start(ctx, vaulttest.Options{PreferInstalled: true, Progress: os.Stderr}); err != nil {
		return nil, err
	}
	w.Add(w.vault.Stop)
	if err := w.fillVault(ctx); err != nil {
		return nil, fmt.Errorf("setting Vault up: %w", err)
	}
	w.proxy = startProxy(w.vault.Address)
	w.Add(func() error { w.proxy.Close(); return nil })
	w.allowed = []string{w.proxy.URL}
	w.api = apiserver.Start(nil)
	w.Add(func() error { w.api.Close(); return nil })
	if err := os.WriteFile(w.kubeconfig(), w.api.Kubeconfig(), 0o600); err != nil {
		return nil, err
	}
	if w.healthAddr, err = testkit.Address(); err == nil {
		w.metricsAddr, err = testkit.Address()
	}
	return w, err
}

// fillVault lets both tenants read their own paths of the shared Vault.
func (w *world) fillVault(ctx context.Context) error {
	v := w.vault
	err := errors.Join(v.EnableKubernetesAuth(ctx, "kubernetes", w.issuer), v.EnableKV(ctx, "kv", 2))
	for _, tenant := range []string{shop, evil} {
		err = errors.Join(err, v.Policy(ctx, tenant, `path "kv/data/`+tenant+`/*" { capabilities = ["read"] }`),
			v.Bind(ctx, tenant, "*", tenant, tenant, map[string]any{"token_ttl": tokenTTL(tenant)}))
	}
	return err
}

// tokenTTL makes the hostile tenant's tokens need renewals within the run.
func tokenTTL(tenant string) string {
	if tenant == evil {
		return "20s"
	}
	return "1h"
}

// flags are the driver's. The chart's defaults that are the driver's defaults too are not repeated
// here.
func (w *world) flags() []string {
	flags := []string{
		"--kubeconfig=" + w.kubeconfig(),
		"--nodeid=" + nodeName,
		// An operator with tenants has such a list. It lets classes name servers on loopback.
		"--vault-allowed-addresses=" + strings.Join(w.allowed, ","),
		"--akeyless-allowed-addresses=" + strings.Join(w.allowed, ","),
		"--health-addr=" + w.healthAddr,
		"--metrics-addr=" + w.metricsAddr,
		"--audit-log=" + w.auditLog(),
	}
	return append(flags, w.driverFlags...)
}

func (w *world) kubeconfig() string { return filepath.Join(w.dir, "kubeconfig") }
func (w *world) auditLog() string   { return filepath.Join(w.dir, "audit.log") }
func (w *world) kubeletDir() string { return filepath.Join(w.dir, "kubelet") }
func (w *world) stateDir() string   { return filepath.Join(w.dir, "state") }

// class makes a class or edits it.
func (w *world) class(namespace, name, provider string, parameters map[string]string) error {
	return w.api.Put(&v1.SecretProviderClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid(namespace, "class", name))},
		Spec:       v1.SecretProviderClassSpec{Provider: provider, Parameters: parameters},
	})
}

// pod makes a pod with the tokens that kubelet gets for it.
func (w *world) pod(namespace, name, serviceAccount, class string) kubelet.Pod {
	ref := issuer.PodRef{Namespace: namespace, Pod: name, PodUID: uid(namespace, "pod", name), ServiceAccount: serviceAccount, Node: nodeName}
	return kubelet.Pod{
		Namespace: namespace, Name: name, UID: ref.PodUID, ServiceAccount: serviceAccount, Class: class,
		Tokens: w.issuer.CSITokens(ref, "vault", "akeyless"),
	}
}

func uid(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "/")))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
