package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// firstPort is the first API server's port.
const firstPort = 6443

// APIServer is one API server of a cluster.
type APIServer struct {
	*Process
	URL        string
	Kubeconfig string
	// Client is the administrator's; it neither waits nor retries.
	Client kubernetes.Interface
	Config *rest.Config

	cluster *Cluster
}

// APIServer starts an API server. Its name is its host's name, which makes its
// identity. encryption is its EncryptionConfiguration; empty for none. It is
// not waited for.
func (c *Cluster) APIServer(name, encryption string, more ...string) *APIServer {
	c.t.Helper()
	port := firstPort + c.servers
	c.servers++
	a := &APIServer{cluster: c, URL: fmt.Sprintf("https://%s:%d", c.Address, port), Kubeconfig: c.Path(name + ".kubeconfig")}
	args := c.apiServerArguments(port, more)
	if encryption != "" {
		file := c.Path(name + "-encryption.yaml")
		c.must(os.WriteFile(file, []byte(encryption), 0o600))
		args = append(args, "--encryption-provider-config="+file)
	}
	a.Process = NewProcess(c.t, name, c.Path(name+".log"), func() *exec.Cmd {
		// A UTS namespace, for the host's name.
		return exec.Command("unshare", append([]string{"--uts", "sh", "-c", `hostname "$0" && exec "$@"`, name, c.apiserver}, args...)...)
	})
	c.writeKubeconfig(a.Kubeconfig, a.URL, c.admin)
	config := testkit.Value(clientcmd.BuildConfigFromFlags("", a.Kubeconfig))(c.t)
	config.QPS = -1
	a.Config = config
	a.Client = testkit.Value(kubernetes.NewForConfig(config))(c.t)
	a.Start()
	return a
}

// WriteKubeconfig writes a kubeconfig with a certificate of a user in a group.
func (a *APIServer) WriteKubeconfig(path, user, group string) {
	a.t.Helper()
	pair := testkit.Value(a.cluster.ca.Issue(pki.Identity{Name: user, Group: group}))(a.cluster.t)
	a.cluster.writeKubeconfig(path, a.URL, pair)
}

// As is a client with a certificate of a user in a group.
func (a *APIServer) As(user, group string) kubernetes.Interface {
	a.t.Helper()
	pair := testkit.Value(a.cluster.ca.Issue(pki.Identity{Name: user, Group: group}))(a.cluster.t)
	config := rest.CopyConfig(a.Config)
	config.CertData, config.KeyData, config.CertFile, config.KeyFile = pair.Cert, pair.Key, "", ""
	return testkit.Value(kubernetes.NewForConfig(config))(a.cluster.t)
}

func (c *Cluster) apiServerArguments(port int, more []string) []string {
	return append([]string{
		"--bind-address=" + c.Address,
		"--advertise-address=" + c.Address,
		fmt.Sprintf("--secure-port=%d", port),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--endpoint-reconciler-type=none", // an endpoint may not be a loopback address
		"--tls-cert-file=" + c.Path("apiserver.crt"),
		"--tls-private-key-file=" + c.Path("apiserver.key"),
		"--client-ca-file=" + c.Path("ca.crt"),
		"--etcd-servers=" + c.EtcdURL(),
		"--etcd-cafile=" + c.Path("etcd-ca.crt"),
		"--etcd-certfile=" + c.Path("etcd.crt"),
		"--etcd-keyfile=" + c.Path("etcd.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.Path("sa.pub"),
		"--service-account-signing-key-file=" + c.Path("sa.key"),
		"--authorization-mode=RBAC",
		"--profiling=false",
		"--shutdown-delay-duration=0",
		"--v=1",
	}, more...)
}

// Ready waits until the API server is ready.
func (a *APIServer) Ready() {
	a.t.Helper()
	a.await(readyWithin, a.Name+" to be ready", func(ctx context.Context) error {
		_, err := a.Get(ctx, "/readyz?verbose")
		return err
	})
}

// Live waits until the API server serves, ready or not.
func (a *APIServer) Live() {
	a.t.Helper()
	a.await(readyWithin, a.Name+" to be live", func(ctx context.Context) error {
		_, err := a.Get(ctx, "/livez")
		return err
	})
}

// Get asks for a path, such as /metrics.
func (a *APIServer) Get(ctx context.Context, path string) (string, error) {
	request := a.Client.CoreV1().RESTClient().Get().RequestURI(path)
	data, err := request.Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(string(data)))
	}
	return string(data), nil
}

// ControllerManager starts a controller manager at an API server, and waits
// until it works. controllers are those to run.
func (c *Cluster) ControllerManager(a *APIServer, controllers string) *Process {
	c.t.Helper()
	pair := testkit.Value(c.ca.Issue(pki.Identity{Name: "system:kube-controller-manager"}))(c.t)
	config := c.Path("kube-controller-manager.kubeconfig")
	c.writeKubeconfig(config, a.URL, pair)
	p := NewProcess(c.t, "kube-controller-manager", c.Path("kube-controller-manager.log"), func() *exec.Cmd {
		return exec.Command(c.manager, "--kubeconfig="+config, "--service-account-private-key-file="+c.Path("sa.key"),
			"--root-ca-file="+c.Path("ca.crt"), "--use-service-account-credentials", "--leader-elect=false", "--secure-port=0",
			"--controllers="+controllers, "--v=2")
	})
	p.Start()
	return p
}

// Namespace makes a namespace.
func (a *APIServer) Namespace(name string) {
	a.t.Helper()
	Await(a.t, readyWithin, "namespace "+name, func(ctx context.Context) error {
		_, err := a.Client.CoreV1().Namespaces().Create(ctx, namespace(name), metav1.CreateOptions{})
		return err
	})
}

// Event is the part of a line of the API server's audit log that tests use.
type Event struct {
	Stage, Verb, Level, RequestURI string
	User                           struct{ Username string }
	ObjectRef                      struct{ Resource, Subresource, Namespace, Name string }
	RequestObject                  json.RawMessage
	ResponseStatus                 struct{ Code int }
	Annotations                    map[string]string
}

// AuditEvents reads the whole lines of an audit log from an offset on, and returns the offset of the next.
// At an offset within a line, as the size of a growing file may be, it leaves out the rest of that line.
func AuditEvents(path string, from int64) (all []Event, next int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, from, fmt.Errorf("opening the API server's audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.NewSectionReader(file, from, 1<<62))
	if err != nil {
		return nil, from, fmt.Errorf("reading the API server's audit log: %w", err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the last line may be half written
	for line := range bytes.Lines(text) {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			if from > 0 && &line[0] == &text[0] {
				continue
			}
			return nil, from, fmt.Errorf("reading the API server's audit log: %w: %s", err, line)
		}
		all = append(all, e)
	}
	return all, from + int64(len(text)), nil
}
