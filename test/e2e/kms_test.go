//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const (
	kmsImage = "mayfly.test/mayfly-kms:1"
	kmsDir   = "/etc/mayfly-kms"
)

// kmsStaticPod runs deploy/kms/static-pod.yaml unchanged except for the image and the directories
// of the node: kubelet accepts it, the plugin serves its socket, and serves it again after a kill
// that leaves the socket file behind.
func kmsStaticPod(c *tenant) {
	root := testkit.Value(toolcache.ModuleRoot())(c.t)
	dir := testkit.Value(os.MkdirTemp("", "mayfly-e2e-kms-"))(c.t)
	c.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config, sockets := filepath.Join(dir, "config"), filepath.Join(dir, "run")
	testkit.Must(c.t, errors.Join(os.Mkdir(config, 0o700), os.Mkdir(sockets, 0o700)))
	c.kmsImage(dir)
	c.kmsConfig(root, config)

	manifest := filepath.Join(c.node.StaticPods(), "mayfly-kms.yaml")
	testkit.Must(c.t, os.WriteFile(manifest, kmsPod(c, root, config, sockets), 0o600))
	c.t.Cleanup(func() { _ = os.Remove(manifest) })
	mirror := "mayfly-kms-" + c.node.Name()
	pods := c.api.CoreV1().Pods(metav1.NamespaceSystem)
	c.until("kubelet to run the static pod", func(ctx context.Context) error {
		pod, err := pods.Get(ctx, mirror, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return isRunning(pod)
	})
	socket := filepath.Join(sockets, "kms.sock")
	id := c.awaitPlugin(socket)

	c.killProgram("mayfly-kms", "="+kmsDir+"/")
	if again := c.awaitPlugin(socket); again != id {
		c.t.Errorf("the key id was %s and is %s", id, again)
	}
	testkit.Must(c.t, os.Remove(manifest))
	c.until("the static pod to go", func(ctx context.Context) error {
		_, err := pods.Get(ctx, mirror, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
}

// kmsImage puts an image of the program on the node.
func (c *tenant) kmsImage(dir string) {
	c.t.Helper()
	program := testkit.Value(toolcache.Program(c.t.Context(), c.out, dir, "./cmd/mayfly-kms"))(c.t)
	data := testkit.Value(os.ReadFile(program))(c.t)
	testkit.Must(c.t, c.node.AddImage(c.t.Context(), node.Image{
		Ref: kmsImage, Entrypoint: []string{"/mayfly-kms"}, Files: []node.ImageFile{{Path: "mayfly-kms", Data: data, Mode: 0o755}},
	}))
}

// kmsConfig writes the shipped policy to Vault, and the shipped settings with this Vault's address and a
// token of that policy to dir.
func (c *tenant) kmsConfig(root, dir string) {
	c.t.Helper()
	mount := "transit-" + c.ns
	testkit.Must(c.t, c.vault.EnableTransit(c.t.Context(), mount, "kubernetes"))
	policy := testkit.Value(os.ReadFile(filepath.Join(root, "deploy/kms/policy.hcl")))(c.t)
	testkit.Must(c.t, c.vault.Policy(c.t.Context(), mount, string(bytes.ReplaceAll(policy, []byte(`"transit/`), []byte(`"`+mount+"/")))))
	token := testkit.Value(c.vault.Client().Auth().Token().CreateWithContext(c.t.Context(), &api.TokenCreateRequest{Policies: []string{mount}, Period: "1h"}))(c.t)
	testkit.Must(c.t, os.WriteFile(filepath.Join(dir, "token"), []byte(token.Auth.ClientToken), 0o600))
	data := testkit.Value(os.ReadFile(filepath.Join(root, "deploy/kms/config.yaml")))(c.t)
	settings := map[string]any{}
	testkit.Must(c.t, yaml.Unmarshal(data, &settings))
	for _, key := range []string{"vaultCaCert", "roleId", "secretIdFile"} {
		if _, ok := settings[key]; !ok {
			c.t.Fatalf("deploy/kms/config.yaml has no %s", key)
		}
		delete(settings, key)
	}
	system := testkit.Value(c.api.CoreV1().Namespaces().Get(c.t.Context(), metav1.NamespaceSystem, metav1.GetOptions{}))(c.t)
	settings["vaultAddr"], settings["authMethod"], settings["tokenFile"] = []string{c.vault.Address}, "token-file", kmsDir+"/token"
	settings["transitMount"], settings["clusterId"] = mount, string(system.UID)
	data = testkit.Value(yaml.Marshal(settings))(c.t)
	testkit.Must(c.t, os.WriteFile(filepath.Join(dir, "config.yaml"), data, 0o600))
}

// kmsPod is the shipped manifest with the node's folders.
func kmsPod(c *tenant, root, config, sockets string) []byte {
	c.t.Helper()
	data := testkit.Value(os.ReadFile(filepath.Join(root, "deploy/kms/static-pod.yaml")))(c.t)
	var pod corev1.Pod
	testkit.Must(c.t, yaml.UnmarshalStrict(data, &pod))
	pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = kmsImage, corev1.PullNever
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; v.Name {
		case "socket":
			v.HostPath.Path = sockets
		case "config":
			v.HostPath.Path = config
		default:
			c.t.Fatalf("deploy/kms/static-pod.yaml has a volume %s", v.Name)
		}
	}
	data = testkit.Value(yaml.Marshal(pod))(c.t)
	return data
}

// awaitPlugin waits until the plugin is healthy, encrypts and decrypts a seed, and returns its key id.
func (c *tenant) awaitPlugin(socket string) (id string) {
	c.t.Helper()
	c.until("the plugin to be healthy", func(ctx context.Context) error {
		p, err := probe.Dial("unix://" + socket)
		if err != nil {
			return err
		}
		defer p.Close()
		s, err := p.Status(ctx)
		if err == nil && (s.Version != "v2" || s.Health != "ok") {
			err = fmt.Errorf("it says %+v", s)
		}
		if err != nil {
			return err
		}
		id, _, _, err = p.RoundTrip(ctx, "e2e")
		return err
	})
	return id
}
