// Package controlplane runs real control planes for tests: etcd, any number of API servers and a
// controller manager, each with its own encryption configuration, and no node. Several run side by
// side, each on a loopback address of its own.
package controlplane

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const (
	readyWithin = 90 * time.Second
	clientPort  = 2379
	peerPort    = 2380
)

// T is a test, or another program that a control plane runs for. What would end the test must not return.
type T interface {
	Helper()
	Context() context.Context
	TempDir() string
	Cleanup(f func())
	Failed() bool
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// Cluster is an etcd and what its API servers share.
type Cluster struct {
	// Dir has all files.
	Dir string
	// Address is the loopback address that everything listens on.
	Address string
	Etcd    *Process
	// Client asks etcd.
	Client *clientv3.Client

	t         T
	ca        pki.Authority
	caCert    []byte
	admin     pki.Pair
	apiserver string
	manager   string
	servers   int
}

// New starts etcd.
func New(t T) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Dir: t.TempDir()}
	sum := sha256.Sum256([]byte(c.Dir))
	c.Address = fmt.Sprintf("127.%d.%d.1", 128+sum[0]%64, sum[1])
	var err error
	for name, path := range map[string]*string{"kube-apiserver": &c.apiserver, "kube-controller-manager": &c.manager} {
		*path, err = toolcache.Get(t.Context(), os.Stderr, name)
		c.must(err)
	}
	c.writeCredentials()
	c.startEtcd()
	return c
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	testkit.Must(c.t, err)
}

// Path is a file of the cluster.
func (c *Cluster) Path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

func (c *Cluster) writeCredentials() {
	c.t.Helper()
	etcd, etcdCert, err := pki.NewAuthority("etcd")
	c.must(err)
	c.ca, c.caCert, err = pki.NewAuthority("kubernetes")
	c.must(err)
	etcdPair := testkit.Value(etcd.Issue(pki.Identity{Name: "etcd", Hosts: []string{c.Address}}))(c.t)
	server := testkit.Value(c.ca.Issue(pki.Identity{Name: "kube-apiserver", Hosts: []string{c.Address, "kubernetes", "kubernetes.default.svc"}}))(c.t)
	accounts := testkit.Value(pki.NewServiceAccountKey())(c.t)
	c.admin, err = c.ca.Issue(pki.Identity{Name: "admin", Group: "system:masters"})
	c.must(err)
	for name, data := range map[string][]byte{
		"etcd-ca.crt": etcdCert, "etcd.crt": etcdPair.Cert, "etcd.key": etcdPair.Key,
		"ca.crt": c.caCert, "apiserver.crt": server.Cert, "apiserver.key": server.Key,
		"sa.pub": accounts.Cert, "sa.key": accounts.Key,
	} {
		c.must(os.WriteFile(c.Path(name), data, 0o600))
	}
}

// EtcdURL is where etcd listens.
func (c *Cluster) EtcdURL() string { return fmt.Sprintf("https://%s:%d", c.Address, clientPort) }

func (c *Cluster) startEtcd() {
	c.t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		c.t.Fatalf("etcd is missing; it is in Debian's package etcd-server: %v", err)
	}
	peer := fmt.Sprintf("https://%s:%d", c.Address, peerPort)
	c.Etcd = NewProcess(c.t, "etcd", c.Path("etcd.log"), func() *exec.Cmd {
		return exec.Command(program, "--name=a", "--data-dir="+c.Path("etcd"), "--unsafe-no-fsync",
			"--listen-client-urls="+c.EtcdURL(), "--advertise-client-urls="+c.EtcdURL(),
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=a="+peer,
			"--cert-file="+c.Path("etcd.crt"), "--key-file="+c.Path("etcd.key"), "--trusted-ca-file="+c.Path("etcd-ca.crt"), "--client-cert-auth",
			"--peer-cert-file="+c.Path("etcd.crt"), "--peer-key-file="+c.Path("etcd.key"), "--peer-trusted-ca-file="+c.Path("etcd-ca.crt"))
	})
	c.Etcd.Start()
	info := transport.TLSInfo{TrustedCAFile: c.Path("etcd-ca.crt"), CertFile: c.Path("etcd.crt"), KeyFile: c.Path("etcd.key")}
	secure := testkit.Value(info.ClientConfig())(c.t)
	c.Client, err = clientv3.New(clientv3.Config{Endpoints: []string{c.EtcdURL()}, TLS: secure, Logger: zap.NewNop()})
	c.must(err)
	c.t.Cleanup(func() { _ = c.Client.Close() })
	c.Etcd.await(readyWithin, "etcd", func(ctx context.Context) error {
		_, err := c.Client.Get(ctx, "health")
		return err
	})
}

// EtcdFlags tell mayfly-kms how to reach etcd.
func (c *Cluster) EtcdFlags() []string {
	return []string{"--etcd-endpoints=" + c.EtcdURL(), "--etcd-cacert=" + c.Path("etcd-ca.crt"), "--etcd-cert=" + c.Path("etcd.crt"), "--etcd-key=" + c.Path("etcd.key")}
}

// Raw reads the values below a prefix of etcd, as they are.
func (c *Cluster) Raw(prefix string) map[string][]byte {
	c.t.Helper()
	answer := testkit.Value(c.Client.Get(c.t.Context(), prefix, clientv3.WithPrefix()))(c.t)
	all := map[string][]byte{}
	for _, kv := range answer.Kvs {
		all[string(kv.Key)] = kv.Value
	}
	return all
}

// Snapshot writes the same file as etcdctl snapshot save.
func (c *Cluster) Snapshot(path string) {
	c.t.Helper()
	stream := testkit.Value(c.Client.Snapshot(c.t.Context()))(c.t)
	defer stream.Close()
	file := testkit.Value(os.Create(path))(c.t)
	testkit.Value(io.Copy(file, stream))(c.t)
	c.must(file.Close())
}

// writeKubeconfig writes the administrator's kubeconfig for a server.
func (c *Cluster) writeKubeconfig(path, url string, who pki.Pair) {
	c.t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: c.caCert}
	config.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: who.Cert, ClientKeyData: who.Key}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	config.CurrentContext = "test"
	c.must(clientcmd.WriteToFile(*config, path))
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// CRDs creates the chart's CustomResourceDefinitions, and waits until a path of theirs is served.
func (a *APIServer) CRDs(path string) {
	a.t.Helper()
	root := testkit.Value(toolcache.ModuleRoot())(a.cluster.t)
	files := testkit.Value(filepath.Glob(filepath.Join(root, "charts/mayfly/files/crds/*.yaml")))(a.cluster.t)
	for _, file := range files {
		text := testkit.Value(os.ReadFile(file))(a.cluster.t)
		data := testkit.Value(yaml.YAMLToJSON(text))(a.cluster.t)
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
