//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/pages"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	// The namespace, and where the driver is, in all pages.
	pagesNamespace = "shop"
	pagesRelease   = "kube-system"
	pagesAccessID  = "p-abcdef123456"
	pagesAuthority = "vault-ca"
	pagesImage     = "mayfly.test/web:1"
	pagesLogs      = "/var/log/mayfly" // of the machine, which is the node
	blockTimeout   = 3 * time.Minute
	installPage    = "docs/install.md"
)

// firstPages are read before the others: they install the driver and set up Vault.
var firstPages = []string{installPage, "docs/vault.md", "README.md"}

// docsRun runs the commands of README.md and docs/, on a Vault of its own and unchanged, except
// for the names that every reader replaces. It leaves out blocks that are marked as not run. A
// section that installs the driver begins without it; any other begins with the driver installed as
// in docs/install.md.
func docsRun(c *tenant) {
	root := testkit.Value(toolcache.ModuleRoot())(c.t)
	blocks := testkit.Value(pages.Read(root))(c.t)
	slices.SortStableFunc(blocks, func(a, b pages.Block) int { return cmp.Compare(pageOrder(a.Page), pageOrder(b.Page)) })
	blocks = slices.DeleteFunc(blocks, func(b pages.Block) bool { return b.NotRun != "" })
	r := newReader(c, root, blocks)
	defer func() { testkit.Must(c.t, c.driver.install(context.WithoutCancel(c.t.Context()), nil)) }()
	// Without the driver the volumes of the last case would stay, and the pages' helm uninstall refuses then.
	c.until("the volumes of other cases to go", func(context.Context) error { return c.checkNoVolume() })
	testkit.Must(c.t, c.driver.uninstall(c.t.Context()))
	for len(blocks) > 0 {
		page := blocks[0].Page
		end := slices.IndexFunc(blocks, func(b pages.Block) bool { return b.Page != page })
		if end < 0 {
			end = len(blocks)
		}
		c.t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) { r.in(t).readPage(blocks[:end]) })
		blocks = blocks[end:]
	}
	r.in(c.t).removeDriver()
}

func pageOrder(page string) int {
	if i := slices.Index(firstPages, page); i >= 0 {
		return i
	}
	return len(firstPages)
}

// reader follows the pages.
type reader struct {
	*tenant
	store     *vaulttest.Server
	root, dir string
	env       []string
	names     *strings.Replacer
	install   string         // the command of docs/install.md
	example   string         // the class of README.md
	session   *pages.Session // of the page
	own       *pages.Session // for what the pages do not print
}

// in is the reader in the test of a page.
func (r *reader) in(t *testing.T) *reader {
	out := *r
	out.tenant = &tenant{environment: r.environment, t: t, ns: pagesNamespace}
	return &out
}

func newReader(c *tenant, root string, blocks []pages.Block) *reader {
	c.t.Helper()
	r := &reader{tenant: c, root: root, dir: c.t.TempDir()}
	r.store = testkit.Value(vaulttest.Start(c.t.Context(), vaulttest.Options{Progress: c.out, TLS: true}))(c.t)
	c.t.Cleanup(func() { testkit.Must(c.t, r.store.Stop()) })
	r.names = strings.NewReplacer(
		"https://vault.example.com:8200", r.store.Address, "https://vault.example:8200", r.store.Address,
		"https://kubernetes.example.com:6443", c.node.Server(), "https://kubernetes.example:6443", c.node.Server(),
		"https://gateway.example:8081", c.gateway.URL(),
		"registry.example.com/mayfly-node", imageRepository, "registry.example/web", pagesImage,
		"VERSION", versions[0], "NAMESPACE", pagesNamespace, "NODE", c.node.Name(),
	)
	for _, b := range blocks {
		if b.Page == installPage && strings.Contains(b.Text, "helm install") && r.install == "" {
			r.install = b.Text
		}
		if b.Page == "README.md" && b.Kind == pages.YAML && strings.Contains(b.Text, "kind: SecretProviderClass") {
			r.example = b.Text
		}
	}
	if r.install == "" || r.example == "" {
		c.t.Fatalf("%s has no helm install, or README.md no class", installPage)
	}
	r.prepare()
	return r
}

// prepare makes what a reader has before the first page: programs, a checkout, files, a namespace,
// an image of an application, and items at Akeyless.
func (r *reader) prepare() {
	r.t.Helper()
	ctx, work, bin := r.t.Context(), filepath.Join(r.dir, "work"), filepath.Join(r.dir, "bin")
	for _, dir := range []string{work, bin, filepath.Join(work, "charts")} {
		testkit.Must(r.t, os.MkdirAll(dir, 0o755))
	}
	for name, target := range map[string]string{
		"charts/mayfly": r.driver.chart, "deploy": filepath.Join(r.root, "deploy"), "hack": filepath.Join(r.root, "hack"),
		"vault-audit.log": r.store.AuditFile, "audit.log": r.node.AuditLog(),
	} {
		testkit.Must(r.t, os.Symlink(target, filepath.Join(work, name)))
	}
	for _, name := range []string{"kubectl", "vault"} {
		path := testkit.Value(toolcache.Get(ctx, r.out, name))(r.t)
		testkit.Must(r.t, os.Symlink(path, filepath.Join(bin, name)))
	}
	r.writeHelm(filepath.Join(bin, "helm"))
	mine := testkit.Value(json.Marshal(map[string]any{
		"image": map[string]any{"repository": imageRepository, "tag": versions[0]}, "vault": map[string]any{"address": r.store.Address},
	}))(r.t)
	for _, name := range []string{"my.yaml", "my.json"} {
		testkit.Must(r.t, os.WriteFile(filepath.Join(work, name), mine, 0o600))
	}
	r.env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + r.dir, "KUBECONFIG=" + r.node.Kubeconfig(),
		"VAULT_ADDR=" + r.store.Address, "VAULT_TOKEN=" + r.store.RootToken, "VAULT_CACERT=" + r.store.CAFile,
	}
	r.own = r.newSession()
	testkit.Must(r.t, r.store.EnableKV(ctx, "secret", 2)) // as on every new Vault in development mode
	r.do("kubectl create configmap " + pagesAuthority + " --namespace " + pagesRelease + " --from-file ca.crt=" + r.store.CAFile)
	before := r.clusterObjects()
	_, err := os.Stat(pagesLogs)
	madeHere := errors.Is(err, os.ErrNotExist)
	r.t.Cleanup(func() {
		if madeHere {
			testkit.Must(r.t, os.RemoveAll(pagesLogs))
		}
		r.do("kubectl delete configmap " + pagesAuthority + " --namespace " + pagesRelease)
		for _, name := range strings.Fields(r.clusterObjects()) {
			if !slices.Contains(strings.Fields(before), name) {
				r.do("kubectl delete " + name + " --wait=false")
			}
		}
	})
	r.makeShop(ctx)
}

// clusterObjects are those that pages may make outside of the namespace shop.
func (r *reader) clusterObjects() string {
	r.t.Helper()
	return r.do("kubectl get namespaces,clusterrolebindings --output name")
}

func (r *reader) newSession() *pages.Session {
	r.t.Helper()
	state := testkit.Value(os.MkdirTemp(r.dir, "state"))(r.t)
	return testkit.Value(pages.NewSession(state, filepath.Join(r.dir, "work"), r.env))(r.t)
}

// writeHelm makes a helm that adds the settings that only this node needs: kubelet's directory, the
// host's network, free ports.
func (r *reader) writeHelm(path string) {
	r.t.Helper()
	values := r.driver.defaults()
	values["image"] = map[string]any{"pullPolicy": "Never"}
	// The pages name the address. Their Vault has a public authority, or one that the operator
	// mounts.
	values["vault"] = map[string]any{"tls": map[string]any{"caConfigMap": map[string]any{"name": pagesAuthority}}}
	values["classFiles"] = map[string]any{"configMaps": []any{pagesAuthority}}
	data := testkit.Value(json.Marshal(values))(r.t)
	file := filepath.Join(r.dir, "node.json")
	testkit.Must(r.t, os.WriteFile(file, data, 0o600))
	script := fmt.Sprintf("#!/bin/bash\ncase $1 in\ninstall | upgrade) exec %q \"$1\" --values %q \"${@:2}\" ;;\nesac\nexec %q \"$@\"\n", r.driver.helm, file, r.driver.helm)
	testkit.Must(r.t, os.WriteFile(path, []byte(script), 0o755))
}

func (r *reader) makeShop(ctx context.Context) {
	r.t.Helper()
	testkit.Value(r.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: pagesNamespace, Labels: map[string]string{tenantLabel: "true"}},
	}, metav1.CreateOptions{}))(r.t)
	r.in(r.t).account(account)
	busybox := testkit.Value(exec.LookPath("busybox"))(r.t)
	program := testkit.Value(os.ReadFile(busybox))(r.t)
	testkit.Must(r.t, r.node.AddImage(ctx, node.Image{
		Ref: pagesImage, Entrypoint: []string{"/bin/busybox", "sleep", "100000"},
		Files: []node.ImageFile{{Path: "bin/", Mode: 0o755}, {Path: "bin/busybox", Data: program, Mode: 0o755}},
	}))
	token := testkit.Value(reviewerToken(ctx, r.environment))(r.t)
	ca := testkit.Value(os.ReadFile(r.node.CAFile()))(r.t)
	r.gateway.AuthMethod(pagesAccessID, akeylessd.Method{
		Type: "k8s", ConfigName: "prod", Audience: gatewayAudience,
		Cluster: &akeylessd.Cluster{Host: r.node.Server(), CA: ca, ReviewerToken: token},
	})
	r.gateway.Allow(akeylessd.Rule{
		AccessID: pagesAccessID, Prefix: "/shop/web/", Claims: map[string]string{"namespace": pagesNamespace, "service_account_name": account},
	})
	r.gateway.PutStatic("/shop/web/api-key", marker+"one")
	r.gateway.PutDynamic("/shop/web/db", time.Hour)
	r.gateway.PutIssuer("/shop/web/issuer", 24*time.Hour)
}

func (r *reader) readPage(blocks []pages.Block) {
	r.session = r.newSession()
	r.emptyShop(true)
	if !slices.ContainsFunc(blocks, installs) {
		r.ensureDriver()
		r.apply(r.example)
	}
	section := ""
	for i, b := range blocks {
		if i == 0 || b.Section != section {
			section = b.Section
			if slices.ContainsFunc(blocks, func(o pages.Block) bool { return o.Section == section && installs(o) }) {
				r.removeDriver()
			} else {
				r.ensureDriver()
			}
		}
		r.runBlock(b)
	}
	r.emptyShop(false)
}

// installs reports whether a block is for a cluster without the driver.
func installs(b pages.Block) bool {
	return b.Kind == pages.Shell && (strings.Contains(b.Text, "helm install mayfly ") || strings.Contains(b.Text, "-f deploy/mayfly.yaml"))
}

func (r *reader) runBlock(b pages.Block) {
	r.t.Helper()
	began := time.Now()
	switch b.Kind {
	case pages.Shell:
		if out, err := r.try(r.session, b.Text); err != nil {
			r.t.Errorf("%s: %v\n%s\n%s", b, err, b.Text, out)
		}
	case pages.YAML:
		r.runYAML(b)
	}
	r.t.Logf("%s: %s", b, time.Since(began).Round(10*time.Millisecond))
}

func (r *reader) try(session *pages.Session, text string) (string, error) {
	// Cleanups run after the end of the test's own context.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), blockTimeout)
	defer cancel()
	return session.Run(ctx, r.names.Replace(text))
}

// do runs a command that no page prints.
func (r *reader) do(text string) string {
	r.t.Helper()
	out, err := r.try(r.own, text)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", text, err, out)
	}
	return out
}

func (r *reader) apply(manifest string) {
	r.do("kubectl apply -f - <<'END OF FILE'\n" + manifest + "END OF FILE\n")
}

// runYAML applies objects, mounts the classes among them, and waits until every pod runs. The test
// of package pages renders values of the chart, because some need what this cluster does not have,
// such as Prometheus' operator.
func (r *reader) runYAML(b pages.Block) {
	r.t.Helper()
	if !strings.Contains(b.Text, "apiVersion:") {
		return
	}
	if strings.Contains(b.Text, "kind: SecretProviderClass") {
		r.storeSecrets()
	}
	r.apply(b.Text)
	if strings.Contains(b.Text, string(corev1.SecretTypeServiceAccountToken)) {
		r.awaitTokens()
	}
	for document := range strings.SplitSeq("\n"+b.Text, "\n---") {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct{ Provider string }
		}
		testkit.Must(r.t, yaml.Unmarshal([]byte(document), &object))
		if p := object.Spec.Provider; object.Kind == "SecretProviderClass" && (p == "vault" || p == "akeyless") {
			r.start(newPod(fmt.Sprintf("reader-%d", b.Line), printOnce, mounts(object.Metadata.Name), sleeps))
		}
	}
	r.awaitPods(b)
}

// awaitTokens waits as long as a person needs until the next block.
func (r *reader) awaitTokens() {
	r.t.Helper()
	r.until("the tokens of service accounts", func(ctx context.Context) error {
		list, err := r.api.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if len(list.Items[i].Data[corev1.ServiceAccountTokenKey]) == 0 {
				return fmt.Errorf("secret %s has none", list.Items[i].Name)
			}
		}
		return nil
	})
}

// sleeps lets a pod do nothing with its secrets.
func sleeps(pod *corev1.Pod) { pod.Spec.Containers[0].Command = []string{"sleep", "100000"} }

func (r *reader) awaitPods(b pages.Block) {
	r.t.Helper()
	err := r.poll(r.t.Context(), "the pods of "+b.String(), func(ctx context.Context) error {
		list, err := r.api.CoreV1().Pods(r.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var waiting []error
		for i := range list.Items {
			if pod := &list.Items[i]; hasSucceeded(pod) != nil {
				if err := isRunning(pod); err != nil {
					waiting = append(waiting, fmt.Errorf("pod %s: %w", pod.Name, err))
				}
			}
		}
		return errors.Join(waiting...)
	})
	if err != nil {
		log, _ := r.try(r.own, "kubectl logs --namespace "+pagesRelease+" daemonset/mayfly --tail 40")
		r.t.Errorf("%v\n%s\n%s", err, r.explainPods(r.t.Context()), log)
	}
}

// storeSecrets writes the secrets of the pages' classes to Vault, unless a command of a page has
// done so.
func (r *reader) storeSecrets() {
	r.t.Helper()
	ctx := r.t.Context()
	mounted := testkit.Value(r.store.Client().Sys().ListMountsWithContext(ctx))(r.t)
	if found, err := r.store.Client().Logical().ReadWithContext(ctx, "secret/data/web/db"); err != nil || found == nil {
		testkit.Must(r.t, r.store.PutKV2(ctx, "secret", "web/db", map[string]any{"username": "web", "password": marker + "one"}))
	}
	testkit.Must(r.t, r.store.PutKV2(ctx, "secret", "web/app", map[string]any{"user": "web", "password": marker + "one"}))
	testkit.Must(r.t, r.store.PutKV2(ctx, "secret", "web/ssh", map[string]any{"private_key": marker + "ssh"}))
	authority, ca, err := pki.NewAuthority("pages")
	testkit.Must(r.t, err)
	pair := testkit.Value(authority.Issue(pki.Identity{Name: "web"}))(r.t)
	testkit.Must(r.t, r.store.PutKV2(ctx, "secret", "web/tls", map[string]any{
		"certificate": string(pair.Cert), "private_key": string(pair.Key), "ca": string(ca), "store_password": marker + "store",
	}))
	if mounted["pki/"] == nil {
		testkit.Must(r.t, r.store.Write(ctx, "sys/mounts/pki", map[string]any{"type": "pki"}))
		testkit.Must(r.t, r.store.Write(ctx, "pki/root/generate/internal", map[string]any{"common_name": "root", "key_type": "ec", "key_bits": 256}))
		testkit.Must(r.t, r.store.Write(ctx, "pki/roles/web", map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256}))
	}
}

// emptyShop deletes the pods, and the classes if asked to, and waits until they
// are gone.
func (r *reader) emptyShop(classes bool) {
	r.t.Helper()
	kinds := "deployments,statefulsets,daemonsets,jobs,pods"
	if classes && r.hasClasses() {
		kinds += ",secretproviderclasses"
	}
	r.do("kubectl delete " + kinds + " --all --namespace " + pagesNamespace + " --grace-period 1 --timeout 60s")
}

func (r *reader) hasClasses() bool {
	_, err := r.api.CoreV1().RESTClient().Get().AbsPath(r.path("secretproviderclasses")).DoRaw(r.t.Context())
	if err != nil && !apierrors.IsNotFound(err) {
		r.t.Fatal(err)
	}
	return err == nil
}

// removeDriver removes the driver, whichever way a page has installed it.
func (r *reader) removeDriver() {
	r.t.Helper()
	r.emptyShop(false)
	log := r.do("kubectl logs --namespace " + pagesRelease + " --selector app.kubernetes.io/name=mayfly --tail -1 --ignore-errors")
	if found := leaked([]byte(log)); found != "" {
		r.t.Errorf("the driver's log holds a secret: %s", found)
	}
	for _, release := range r.releases() {
		r.do("helm uninstall " + release + " --namespace " + pagesRelease + " --wait")
	}
	r.do("kubectl delete -f deploy/mayfly.yaml --ignore-not-found")
	r.until("the driver to go", func(context.Context) error {
		pids, err := driverPids(r.node.KubeletRoot())
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("it runs: %v", pids)
		}
		return err
	})
}

func (r *reader) releases() []string {
	return strings.Fields(r.do("helm list --all --short --namespace " + pagesRelease))
}

// ensureDriver installs the driver as docs/install.md does, unless it is there.
func (r *reader) ensureDriver() {
	r.t.Helper()
	if len(r.releases()) == 0 {
		r.removeDriver() // of manifests
		out := r.do(r.install)
		if !strings.Contains(out, "STATUS: deployed") {
			r.t.Fatalf("the driver is not installed: %s", out)
		}
	}
	r.do("kubectl rollout status daemonset/mayfly --namespace " + pagesRelease + " --timeout 90s")
}
