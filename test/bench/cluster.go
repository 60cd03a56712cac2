package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/apiserver"
	"github.com/mayfly-csi/mayfly/test/controlplane"
)

// cluster is the driver's API server.
type cluster interface {
	Kubeconfig() []byte
	// Requests are the driver's so far, by object and verb.
	Requests() (map[string]int, error)
	// Statuses is how many pod statuses there are.
	Statuses(ctx context.Context) (int, error)
	// Collect does the garbage collector's work once all pods are gone, which own the statuses.
	Collect(ctx context.Context) error
	Close() error
	// String is for the heading of the table.
	String() string
}

const statusResource = "secretproviderclasspodstatuses"

// double is the test double.
type double struct{ *apiserver.Server }

func (d double) Requests() (map[string]int, error)     { return d.Server.Requests(), nil }
func (d double) Statuses(context.Context) (int, error) { return d.Written.Count(statusResource), nil }

func (d double) Collect(context.Context) error {
	d.Written.Collect()
	return nil
}

func (double) String() string { return "a double of the API server" }

func (d double) Close() error {
	d.Server.Close()
	return nil
}

// realCluster is a real API server and its etcd.
type realCluster struct {
	*host
	etcd       *clientv3.Client
	kubeconfig []byte
	// log is the API server's audit log of the driver's requests, of which read bytes are counted.
	log    string
	read   int64
	counts map[string]int
}

// driverUser is the name in the driver's certificate.
const driverUser = "mayfly"

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: [` + driverUser + `]}
- {level: None}
`

// startReal starts a real API server with the classes.
func startReal(ctx context.Context, dir string, classes map[apiserver.Key][]byte) (_ *realCluster, err error) {
	r := &realCluster{host: &host{ctx: ctx, dir: dir}, log: filepath.Join(dir, "audit.log"), counts: map[string]int{}}
	defer func() {
		if p, ok := recover().(ended); ok {
			err = errors.New(string(p))
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a real API server: %w", err), r.Close())
		}
	}()
	policy := filepath.Join(dir, "audit-policy.yaml")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(policy, []byte(auditPolicy), 0o600), os.WriteFile(r.log, nil, 0o600)); err != nil {
		return nil, err
	}
	plane := controlplane.New(r.host)
	r.etcd = plane.Client
	server := plane.APIServer("kube-apiserver", "", "--audit-policy-file="+policy, "--audit-log-path="+r.log)
	server.Ready()
	server.CRDs(classPath(namespace))
	if err := fill(ctx, server, classes); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "driver.kubeconfig")
	server.WriteKubeconfig(file, driverUser, "system:masters")
	r.kubeconfig, err = os.ReadFile(file)
	return r, err
}

func classPath(namespace string) string {
	return "/apis/" + v1.GroupVersion().String() + "/namespaces/" + namespace + "/secretproviderclasses"
}

// fill creates the classes and their namespaces.
func fill(ctx context.Context, server *controlplane.APIServer, classes map[apiserver.Key][]byte) error {
	const atOnce = 16
	say("creating %d classes", len(classes))
	namespaces := map[string]bool{}
	for key := range classes {
		namespaces[key.Namespace] = true
	}
	for name := range namespaces {
		server.Namespace(name)
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	for key, data := range classes {
		work.Go(func() error {
			var class v1.SecretProviderClass
			if err := json.Unmarshal(data, &class); err != nil {
				return fmt.Errorf("reading class %s/%s: %w", key.Namespace, key.Name, err)
			}
			class.ResourceVersion, class.UID = "", "" // the API server's
			data, err := json.Marshal(class)
			if err != nil {
				return fmt.Errorf("encoding class %s/%s: %w", key.Namespace, key.Name, err)
			}
			return server.Post(ctx, classPath(key.Namespace), data)
		})
	}
	return work.Wait()
}

func (*realCluster) String() string { return "a real API server" }

func (r *realCluster) Kubeconfig() []byte { return r.kubeconfig }

// Requests reads the rest of the audit log.
func (r *realCluster) Requests() (map[string]int, error) {
	events, read, err := controlplane.AuditEvents(r.log, r.read)
	if err != nil {
		return nil, err
	}
	r.read = read
	for _, q := range events {
		if began := q.Stage == "ResponseStarted"; began == (q.Verb == "watch") {
			r.counts[what(q)]++
		}
	}
	return maps.Clone(r.counts), nil
}

// what names a request as the double does.
func what(q controlplane.Event) string {
	noun := map[string]string{"secretproviderclasses": "class", statusResource: "status", "events": "event", "secrets": "secret"}[q.ObjectRef.Resource]
	switch {
	case noun == "":
		return q.Verb + " " + q.RequestURI
	case noun == "secret" && strings.Contains(q.RequestURI, "dryRun="):
		return "secret look"
	case noun == "secret" && q.Verb == "patch":
		return "secret apply"
	}
	return noun + " " + q.Verb
}

// Statuses counts them in etcd, which costs the API server nothing.
func (r *realCluster) Statuses(ctx context.Context) (int, error) {
	answer, err := r.etcd.Get(ctx, statusPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("counting the pod statuses in etcd: %w", err)
	}
	return int(answer.Count), nil
}

const statusPrefix = "/registry/" + v1.GroupName + "/" + statusResource + "/"

func (r *realCluster) Collect(ctx context.Context) error {
	if _, err := r.etcd.Delete(ctx, statusPrefix, clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("removing the pod statuses from etcd: %w", err)
	}
	return nil
}

// host runs a control plane outside of a test.
type host struct {
	ctx    context.Context
	dir    string
	errs   []error
	atEnd  []func()
	failed bool
}

// ended is the panic of what would end a test.
type ended string

func (h *host) Helper()                  {}
func (h *host) Context() context.Context { return h.ctx }
func (h *host) TempDir() string          { return h.dir }
func (h *host) Cleanup(f func())         { h.atEnd = append(h.atEnd, f) }
func (h *host) Failed() bool             { return h.failed }
func (h *host) Fatal(args ...any)        { h.end(fmt.Sprint(args...)) }

func (h *host) Fatalf(format string, args ...any) { h.end(fmt.Sprintf(format, args...)) }

func (h *host) end(text string) {
	h.failed = true
	panic(ended(text))
}

func (h *host) Errorf(format string, args ...any) {
	h.failed = true
	h.errs = append(h.errs, fmt.Errorf(format, args...))
}

func (h *host) Logf(format string, args ...any) { say(format, args...) }

// Close ends the processes.
func (h *host) Close() error {
	for _, f := range slices.Backward(h.atEnd) {
		f()
	}
	h.atEnd = nil
	return errors.Join(h.errs...)
}

// The objects of the classes: always the same three files, from two secrets
// where the store knows secrets of several values.
const (
	vaultObjects = `- objectName: db/username
  secretPath: kv/data/CLASS/db
  secretKey: username
- objectName: db/password
  secretPath: kv/data/CLASS/db
  secretKey: password
  filePermission: 0400
- objectName: api-key
  secretPath: kv/data/CLASS/api
  secretKey: key
`
	akeylessObjects = `- fileName: db/username
  secretPath: /CLASS/db
  secretType: static
  secretKey: username
- fileName: db/password
  secretPath: /CLASS/db
  secretType: static
  secretKey: password
  filePermission: 0400
- fileName: api-key
  secretPath: /CLASS/api
  secretType: rotated
  secretKey: key
`
	pluginObjects = `- objectName: username
  path: db/username
- objectName: password
  path: db/password
  mode: 256
- objectName: key
  path: api-key
`
)

// madeTemplates is the template of the classes that have one.
const madeTemplates = `- fileName: dsn
  text: 'db://{{ urlUserinfo (secret "db/username") }}:{{ urlUserinfo (secret "db/password") }}@db'
`

// madeSecret is the Kubernetes Secret of such a class.
func madeSecret(class string) v1.SecretObject {
	return v1.SecretObject{SecretName: class, Type: "Opaque", Data: []v1.SecretObjectData{
		{ObjectName: "dsn", Key: "DSN"}, {ObjectName: "db/username", Key: "USERNAME"}, {ObjectName: "db/password", Key: "PASSWORD"},
	}}
}

// vaultParameters are for a Vault at an address. An empty interval leaves it
// to the driver.
func vaultParameters(class, address, interval string) map[string]string {
	p := map[string]string{"vaultAddress": address, "roleName": role, "objects": strings.ReplaceAll(vaultObjects, "CLASS", class)}
	if interval != "" {
		p["refreshInterval"] = interval
	}
	return p
}

func akeylessParameters(class, gateway string) map[string]string {
	return map[string]string{
		"akeylessGatewayURL": gateway, "akeylessAccessType": "k8s", "akeylessAccessID": accessID,
		"akeylessK8sAuthConfigName": authConfig, "objects": strings.ReplaceAll(akeylessObjects, "CLASS", class),
	}
}

func pluginParameters() map[string]string { return map[string]string{"objects": pluginObjects} }

// perNamespace is how many unrelated classes a namespace has.
const perNamespace = 10

// startAPI serves this node's classes among others that it has no use for.
func (w *world) startAPI(ctx context.Context) (cluster, error) {
	classes := withUnrelated(w.manifests(), w.config.classes)
	if !w.realAPIServer {
		return double{apiserver.Start(classes)}, nil
	}
	r, err := startReal(ctx, filepath.Join(w.dir, "cluster"), classes)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func withUnrelated(ours map[string][]byte, unrelated int) map[apiserver.Key][]byte {
	classes := map[apiserver.Key][]byte{}
	for name, data := range ours {
		classes[apiserver.Key{Namespace: namespace, Name: name}] = data
	}
	for i := range unrelated {
		key := apiserver.Key{Namespace: fmt.Sprintf("team-%04d", i/perNamespace), Name: fmt.Sprintf("app-%05d", i)}
		classes[key] = manifest(key.Namespace, key.Name, "vault", vaultParameters(key.Name, "https://vault.example:8200", ""))
	}
	return classes
}

// manifest is a class as the API server stores it.
func manifest(namespace, name, provider string, parameters map[string]string, secrets ...v1.SecretObject) []byte {
	class := v1.SecretProviderClass{
		TypeMeta: metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name), ResourceVersion: "1000", Generation: 1,
			Labels: map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
			Annotations: map[string]string{
				"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace,
			},
		},
		Spec: v1.SecretProviderClassSpec{Provider: provider, Parameters: parameters, SecretObjects: secrets},
	}
	data, err := json.Marshal(class)
	if err != nil {
		panic(fmt.Sprintf("bench: encoding a class: %v", err)) // plain data
	}
	return data
}
