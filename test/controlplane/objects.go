package controlplane

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
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
