// Package reloader restarts Deployments when a secret rotates, by the rule of Stakater Reloader's
// integration with the Secrets Store CSI driver. On each update of a SecretProviderClassPodStatus
// it hashes the sorted "id=version" of its objects and the class's name. If the hash has changed,
// it sets it on the pod template of the Deployments that name the class. It does not touch a
// template that has the hash already. On a real cluster Reloader itself, which is an image, does
// this.
package reloader

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

const (
	// Annotation of a Deployment names the classes, with commas, whose rotation
	// restarts it.
	Annotation = "secretproviderclass.reloader.stakater.com/reload"
	// Mark is on the pod template: the hash that it was restarted for, by class.
	Mark = "reloader.test/"
)

// Hash is the hash of a status' objects.
func Hash(s v1.SecretProviderClassPodStatusStatus) string {
	list := make([]string, 0, len(s.Objects)+1)
	for _, o := range s.Objects {
		list = append(list, o.ID+"="+o.Version)
	}
	slices.Sort(list)
	sum := sha256.Sum256([]byte(strings.Join(append(list, s.SecretProviderClassName), "\n")))
	return hex.EncodeToString(sum[:])
}

// Controller watches one namespace.
type Controller struct {
	API       kubernetes.Interface
	Dynamic   dynamic.Interface
	Namespace string

	mu       sync.Mutex
	restarts []string // of which Deployment, for which class
	failures []error
}

// Run works until ctx ends. It returns the failures of that time.
func (c *Controller) Run(ctx context.Context, watching chan<- struct{}) error {
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.Dynamic, 0, c.Namespace, nil)
	informer := factory.ForResource(v1.GroupVersion().WithResource(v1.SecretProviderClassPodStatusResource)).Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
		if err := c.updated(ctx, before, after); err != nil && ctx.Err() == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.failures = append(c.failures, err)
		}
	}}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())
	close(watching)
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.failures...)
}

// Restarts are the restarts so far: "Deployment for class".
func (c *Controller) Restarts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.restarts)
}

func statusOf(object any) (s v1.SecretProviderClassPodStatus, err error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return s, fmt.Errorf("the informer gave a %T", object)
	}
	return s, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &s)
}

func (c *Controller) updated(ctx context.Context, before, after any) error {
	old, err := statusOf(before)
	if err != nil {
		return err
	}
	now, err := statusOf(after)
	if err != nil || Hash(old.Status) == Hash(now.Status) {
		return err
	}
	deployments, err := c.API.AppsV1().Deployments(c.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	class := now.Status.SecretProviderClassName
	for _, d := range deployments.Items {
		if !slices.Contains(strings.Split(d.Annotations[Annotation], ","), class) {
			continue
		}
		if err := c.restart(ctx, d, class, Hash(now.Status)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) restart(ctx context.Context, d appsv1.Deployment, class, hash string) error {
	if d.Spec.Template.Annotations[Mark+class] == hash {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{Mark + class: hash}},
	}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := c.API.AppsV1().Deployments(c.Namespace).Patch(ctx, d.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("restarting %s for class %s: %w", d.Name, class, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarts = append(c.restarts, d.Name+" for "+class)
	return nil
}
