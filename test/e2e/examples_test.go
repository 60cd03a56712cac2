//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// hostRoot is where the pods of examplesReload mount the machine's files, because the tests have no
// images of nginx and Java.
const hostRoot = "/host"

// examplesReload runs the applications of examples/ in pods, and checks that each uses rotated secrets
// without a restart. It skips programs that are not installed on this machine, and logs that.
func examplesReload(c *tenant) {
	scratch := testkit.Value(os.MkdirTemp("", "examples"))(c.t)
	c.t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	examples := testkit.Value(filepath.Abs("../../examples"))(c.t)
	build := exec.CommandContext(c.t.Context(), "go", "build", "-o", filepath.Join(scratch, "reload"), ".")
	build.Dir, build.Env = filepath.Join(examples, "go"), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("building examples/go: %v\n%s", err, out)
	}
	commands := map[string][]string{"go": {filepath.Join(scratch, "reload"), "-secrets", "/mnt", "-address", "127.0.0.1:0"}}
	if java := c.program("java"); java != "" {
		commands["java"] = []string{java, filepath.Join(examples, "java", "Reload.java"), "/mnt", "0"}
	}
	c.putAll("app", map[string]any{"username": "web-1", "password": marker + "one"})
	user := c.object("username", "app")
	user.SecretKey = "username"
	c.class("app", nil, user, c.object("password", "app"))
	for name, command := range commands {
		c.run(c.onHost(name, "app", command))
		c.awaitLogContains(name, "using the credentials of web-1")
	}
	nginx := c.startNginx(examples, scratch)
	c.putAll("app", map[string]any{"username": "web-2", "password": marker + "two"})
	for name := range commands {
		c.awaitLogContains(name, "using the credentials of web-2")
	}
	if nginx != "" {
		c.putAll("tls", certificate(c, 2))
		c.awaitLogContains("nginx", "loaded the certificate of ..2")
		c.until("nginx to serve the new certificate", func(ctx context.Context) error { return servesSerial(ctx, nginx, 2) })
		commands["nginx"] = nil
	}
	for name := range commands {
		if pod := c.awaitPod(name, isRunning); pod.Status.ContainerStatuses[0].RestartCount != 0 {
			c.t.Errorf("%s was restarted", name)
		}
	}
}

func (c *tenant) program(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return filepath.Join(dir, name)
			}
		}
		c.t.Logf("%s is not installed on this machine, so its example is not run", name)
		return ""
	}
	return path
}

func (c *tenant) putAll(path string, data map[string]any) {
	c.t.Helper()
	testkit.Must(c.t, c.vault.PutKV2(c.t.Context(), kvMount, c.ns+"/"+path, data))
}

// onHost is a pod that runs a program of the machine, with the volume at /mnt.
func (c *tenant) onHost(name, class string, command []string) *corev1.Pod {
	pod := newPod(name, "", mountsAt(volumeName, hostRoot+"/mnt", class))
	main := &pod.Spec.Containers[0]
	main.Command = append([]string{"chroot", hostRoot, "/usr/bin/env", "PATH=" + os.Getenv("PATH") + ":/usr/sbin"}, command...)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
	main.VolumeMounts = append([]corev1.VolumeMount{{Name: "host", MountPath: hostRoot}}, main.VolumeMounts...)
	return pod
}

// startNginx returns nginx' socket; empty if it is not installed.
func (c *tenant) startNginx(examples, scratch string) string {
	c.t.Helper()
	if c.program("nginx") == "" {
		return ""
	}
	text := testkit.Value(os.ReadFile(filepath.Join(examples, "nginx", "nginx.conf")))(c.t)
	socket, config := filepath.Join(scratch, "s"), filepath.Join(scratch, "nginx.conf")
	replaced := strings.NewReplacer("8443", "unix:"+socket, "/mnt/secrets", "/mnt", "/tmp/", scratch+"/").Replace(string(text))
	testkit.Must(c.t, os.WriteFile(config, []byte(replaced), 0o600))
	c.putAll("tls", certificate(c, 1))
	var objects []object
	for name, key := range map[string]string{"tls/cert.pem": "certificate", "tls/key.pem": "private_key"} {
		o := c.object(name, "tls")
		o.SecretKey = key
		objects = append(objects, o)
	}
	c.class("tls", nil, objects...)
	c.run(c.onHost("nginx", "tls", []string{"sh", filepath.Join(examples, "nginx", "run.sh"), "/mnt", "-c", config}))
	c.until("nginx to serve", func(ctx context.Context) error { return servesSerial(ctx, socket, 1) })
	return socket
}

// awaitLogContains waits until a pod's log contains words.
func (c *tenant) awaitLogContains(pod, words string) {
	c.t.Helper()
	c.until("the log of pod "+pod+" to contain "+words, func(ctx context.Context) error {
		got, err := c.log(ctx, pod)
		if err == nil && !strings.Contains(got, words) {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// certificate returns a certificate of that serial number, with its key.
func certificate(c *tenant, serial int64) map[string]any {
	c.t.Helper()
	pair := testkit.Value(pki.SelfSigned(x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "web"}, DNSNames: []string{"web"}}))(c.t)
	return map[string]any{"certificate": string(pair.Cert), "private_key": string(pair.Key)}
}

func servesSerial(ctx context.Context, socket string, want int64) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the serial number is looked at
	if err := client.HandshakeContext(ctx); err != nil {
		return err
	}
	if got := client.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != want {
		return fmt.Errorf("it serves the certificate %d", got)
	}
	return nil
}
