package controlplane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// CRDs creates the chart's CustomResourceDefinitions, and waits until a path of theirs is served.
func (a *APIServer) CRDs(path string) {
	a.t.Helper()
	root, err := toolcache.ModuleRoot()
	a.cluster.must(err)
	files, err := filepath.Glob(filepath.Join(root, "charts/mayfly/files/crds/*.yaml"))
	a.cluster.must(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		a.cluster.must(err)
		data, err := yaml.YAMLToJSON(text)
		a.cluster.must(err)
		a.cluster.must(a.Post(a.t.Context(), "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", data))
	}
	a.await(readyWithin, path, func(ctx context.Context) error {
		_, err := a.Get(ctx, path)
		return err
	})
}

// Post creates an object, as JSON, at the path of its collection.
func (a *APIServer) Post(ctx context.Context, path string, object []byte) error {
	if err := a.Client.CoreV1().RESTClient().Post().RequestURI(path).Body(object).Do(ctx).Error(); err != nil {
		return fmt.Errorf("creating an object at %s: %w", path, err)
	}
	return nil
}

// PutSecret makes a Secret in namespace default with a text in it.
func (a *APIServer) PutSecret(ctx context.Context, name, text string) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"text": text}}
	if _, err := a.Client.CoreV1().Secrets(metav1.NamespaceDefault).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating Secret %s: %w", name, err)
	}
	return nil
}

// ReadSecret reads its text, from etcd and not from a cache.
func (a *APIServer) ReadSecret(ctx context.Context, name string) (string, error) {
	secret, err := a.Client.CoreV1().Secrets(metav1.NamespaceDefault).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("getting Secret %s: %w", name, err)
	}
	return string(secret.Data["text"]), nil
}
