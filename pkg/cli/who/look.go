package who

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
	"github.com/mayfly-csi/mayfly/pkg/cli/trail"
)

// logReaders is how many nodes' logs are read at once.
const logReaders = 8

// classInfo is how the store identifies a pod of the class.
type classInfo struct {
	Provider   string            `json:"provider"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Objects    []string          `json:"objects,omitempty"`
	// Whole are the whole secrets among the objects; Unseen says that the statuses of
	// pods, which have their files, could not be read, or do not list them all.
	Whole   []cluster.Whole `json:"wholeSecrets,omitempty"`
	Unseen  bool            `json:"wholeSecretsUnseen,omitempty"`
	Secrets []string        `json:"secrets,omitempty"`
}

// identifying are the parameters by which a store identifies a pod. None is secret.
func identifying() []string {
	return []string{
		"roleName", "baoRoleName", "openbaoRoleName", "vaultRoleName", "vaultAuthMountPath", "baoAuthMountPath", "vaultAddress", "baoAddress",
		"vaultNamespace", "baoNamespace", "vaultAuthMethod", "audience", "akeylessAccessID", "akeylessK8sAuthConfigName", "akeylessGatewayURL",
	}
}

func infoOf(spc *v1.SecretProviderClass) *classInfo {
	i := &classInfo{Provider: spc.Spec.Provider, Parameters: map[string]string{}}
	for _, key := range identifying() {
		if value := spc.Spec.Parameters[key]; value != "" {
			i.Parameters[key] = value
		}
	}
	for _, s := range spc.Spec.SecretObjects {
		if s.SecretName != "" {
			i.Secrets = append(i.Secrets, s.SecretName)
		}
	}
	return i
}

// look reads the class.
func (c *command) look(ctx context.Context, a *answer) error {
	spc, err := c.client.Class(ctx, c.namespace, c.class)
	switch {
	case err == nil:
		c.report.Objects++
		a.class = infoOf(spc)
		c.objects(ctx, a, spc)
	case apierrors.IsNotFound(err):
		f := finding.Finding{Object: a.object, Message: "the cluster has no such class in this namespace"}
		if all, err := c.client.Classes(ctx, c.namespace); err == nil {
			var names []string
			for i := range all {
				names = append(names, all[i].Name)
			}
			if like := class.Near(c.class, names); like != "" {
				f.Remedy = fmt.Sprintf("did you mean %q?", like)
			}
		}
		c.report.Add(finding.CodeClassNotHere, f)
	case apierrors.IsForbidden(err):
		cluster.NotSeen(c.report, a.object, err)
	default:
		return fmt.Errorf("reading class %s/%s: %s", c.namespace, c.class, cluster.Reason(err))
	}
	return nil
}

// objects finds the objects of the class, and whether the one that is asked for is among them.
func (c *command) objects(ctx context.Context, a *answer, spc *v1.SecretProviderClass) {
	files, err := c.client.Files(ctx, spc)
	if err != nil {
		cluster.NotSeen(c.report, finding.Object{Kind: "SecretProviderClassPodStatus", Namespace: c.namespace, Name: "*"}, err)
	}
	a.class.Objects, a.class.Whole, a.class.Unseen = files.Names, files.Whole, err != nil || files.LeftOut
	whole := files.WholeOf(c.object)
	if c.object == "" || slices.Contains(files.Names, c.object) || len(files.Names) == 0 && whole == nil || whole != nil && a.class.Unseen {
		return
	}
	f := finding.Finding{Object: a.object, Message: fmt.Sprintf("the class has no object %q now", c.object)}
	if whole != nil {
		f.Level, f.Message = finding.Warning, fmt.Sprintf("no pod has the object %q now: the files %s are the keys of the secret %q, which come and go", c.object, inside(*whole), whole.From)
	}
	switch like := class.Near(c.object, files.Names); {
	case like != "":
		f.Remedy = fmt.Sprintf("did you mean %q?", like)
	case len(files.Names) > 0:
		f.Remedy = "it has " + some(files.Names)
	}
	c.report.Add(finding.CodeClassNotHere, f)
}

// inside is where the files of a whole secret are.
func inside(w cluster.Whole) string {
	if w.Directory == "" {
		return "in the volume itself"
	}
	return "in " + w.Directory + "/"
}

// some are the first names of a list.
func some(list []string) string {
	const most = 20
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// can finds who can.
func (c *command) can(ctx context.Context, a *answer) {
	a.looked = true
	t := &rbac.Target{Namespace: c.namespace, Class: c.class, Makers: makers(c.kinds), ExecByGet: c.execByGet()}
	if a.class != nil {
		t.Secrets = a.class.Secrets
	}
	a.pods = c.pods(ctx, c.namespace, func(p *corev1.Pod) bool {
		return slices.Contains(cluster.ClassesOf(&p.Spec, c.client.DriverName), c.class)
	})
	t.Pods = a.pods
	a.accounts = c.accounts(ctx, a.pods)
	for _, account := range a.accounts {
		t.Accounts = append(t.Accounts, account.Name)
	}
	c.findDriver(ctx)
	t.DriverNamespace = c.driverNamespace
	for i := range c.driverPods {
		t.DriverPods = append(t.DriverPods, podOf(&c.driverPods[i]))
	}
	if len(t.DriverPods) == 0 {
		t.DriverPods = []rbac.Pod{{Namespace: t.DriverNamespace}}
	}
	t.PodsOf = c.podsOf(ctx)
	objects, unseen := rbac.Load(ctx, c.client, c.namespace)
	for _, u := range unseen {
		cluster.NotSeen(c.report, u.Object, u.Err)
	}
	c.report.Objects += len(objects.ClusterRoles) + len(objects.Roles) + len(objects.ClusterRoleBindings) + len(objects.RoleBindings)
	policy := rbac.New(objects)
	a.rows = policy.Reach(t)
	for _, row := range a.rows {
		if row.Subject.Everyone() {
			c.report.Add(finding.CodeEveryoneReads, finding.Finding{Object: a.object, Message: fmt.Sprintf("%s may: %s, by %s", row.Subject, wayNames(row), row.Ways[0].Grants[0].Binding)})
		}
	}
}

// execByGet reports whether the API server allows exec with get of pods/exec: those before 1.35 do.
func (c *command) execByGet() bool {
	version, err := c.client.Discovery().ServerVersion()
	if err != nil {
		return true
	}
	minor, err := strconv.Atoi(strings.TrimRight(version.Minor, "+"))
	return err != nil || version.Major == "1" && minor < 35
}

func podOf(p *corev1.Pod) rbac.Pod {
	return rbac.Pod{Namespace: p.Namespace, Name: p.Name, Account: cluster.AccountOf(&p.Spec), Node: p.Spec.NodeName}
}

// pods lists the selected pods of a namespace that still run.
func (c *command) pods(ctx context.Context, namespace string, want func(*corev1.Pod) bool) []rbac.Pod {
	var found []rbac.Pod
	err := cluster.Pages(func(o metav1.ListOptions) (string, error) {
		list, err := c.client.CoreV1().Pods(namespace).List(ctx, o)
		if err != nil {
			return "", err
		}
		c.report.Objects += len(list.Items)
		for i := range list.Items {
			p := &list.Items[i]
			if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && want(p) {
				found = append(found, podOf(p))
			}
		}
		return list.Continue, nil
	})
	if err != nil {
		cluster.NotSeen(c.report, finding.Object{Kind: "Pod", Namespace: namespace, Name: "*"}, err)
	}
	return found
}

// podsOf lists the pods of an account, each namespace once.
func (c *command) podsOf(ctx context.Context) func(rbac.Subject) []rbac.Pod {
	known := map[string][]rbac.Pod{}
	return func(s rbac.Subject) []rbac.Pod {
		pods, ok := known[s.Namespace]
		if !ok {
			pods = c.pods(ctx, s.Namespace, func(*corev1.Pod) bool { return true })
			known[s.Namespace] = pods
		}
		return slices.DeleteFunc(slices.Clone(pods), func(p rbac.Pod) bool { return p.Account != s.Name })
	}
}

// accounts are the service accounts of the namespace, or only those of pods if they cannot be
// listed.
func (c *command) accounts(ctx context.Context, pods []rbac.Pod) []account {
	count := map[string]int{}
	for _, p := range pods {
		count[p.Account]++
	}
	err := cluster.Pages(func(o metav1.ListOptions) (string, error) {
		list, err := c.client.CoreV1().ServiceAccounts(c.namespace).List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			count[list.Items[i].Name] += 0
		}
		return list.Continue, nil
	})
	if err != nil {
		cluster.NotSeen(c.report, finding.Object{Kind: "ServiceAccount", Namespace: c.namespace, Name: "*"}, err)
	}
	var all []account
	for name, n := range count {
		all = append(all, account{name, n})
	}
	slices.SortFunc(all, func(a, b account) int {
		return cmp.Or(cmp.Compare(b.Pods, a.Pods), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// findDriver finds the driver's pods, once.
func (c *command) findDriver(ctx context.Context) {
	if c.driverNamespace != "" {
		return
	}
	driver, err := c.client.CSIDriver(ctx)
	if err != nil {
		cluster.NotSeen(c.report, finding.Object{Kind: "CSIDriver", Name: c.client.DriverName}, err)
	}
	c.driverNamespace = c.client.DriverNamespace(driver)
	if c.driverPods, err = c.client.DriverPods(ctx, c.driverNamespace, ""); err != nil {
		cluster.NotSeen(c.report, finding.Object{Kind: "Pod", Namespace: c.driverNamespace, Name: "*"}, err)
	}
	c.driverSeen = err == nil
}

// readNodes reads the trail from the logs of the driver's pods.
func (c *command) readNodes(ctx context.Context, a *answer, since time.Time) {
	c.findDriver(ctx)
	pods := c.driverPods
	var group errgroup.Group
	group.SetLimit(logReaders)
	var mu sync.Mutex
	for i := range pods {
		p := &pods[i]
		container := cluster.DriverContainer(&p.Spec)
		if owner := metav1.GetControllerOf(p); container == nil || owner == nil || owner.Kind != "DaemonSet" {
			continue // a pod of another program with the driver's label
		}
		if path := cluster.DriverFlags(container)["audit-log"]; path != "-" {
			mu.Lock()
			c.withoutTrail(p, path)
			mu.Unlock()
			continue
		}
		a.sources = append(a.sources, p.Namespace+"/"+p.Name)
		group.Go(func() error {
			if err := c.readLogs(ctx, a.trail, since, p, container.Name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				cluster.NotSeen(c.report, finding.Object{Kind: "Pod", Namespace: p.Namespace, Name: p.Name}, err)
			}
			return nil
		})
	}
	_ = group.Wait()
	if len(pods) == 0 && c.driverSeen {
		c.report.Add(finding.CodeNoAuditTrail, finding.Finding{Message: fmt.Sprintf("namespace %s has no pods of the driver", c.driverNamespace), Remedy: "name the driver's namespace with --driver-namespace"})
	}
}

func (c *command) withoutTrail(p *corev1.Pod, path string) {
	f := finding.Finding{Object: finding.Object{Kind: "Pod", Namespace: p.Namespace, Name: p.Name}, Message: "the driver writes no audit trail"}
	if path != "" {
		f.Message = fmt.Sprintf("the driver writes its audit trail to %s of node %s", path, p.Spec.NodeName)
		f.Remedy = "pass the nodes' files with --audit"
	}
	c.report.Add(finding.CodeNoAuditTrail, f)
}

// readLogs reads the log of a driver's pod, and of its previous container.
func (c *command) readLogs(ctx context.Context, t *trail.Trail, since time.Time, p *corev1.Pod, container string) error {
	before := slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == container && s.RestartCount > 0
	})
	for _, previous := range []bool{true, false} {
		if previous && !before {
			continue
		}
		o := &corev1.PodLogOptions{Container: container, Previous: previous}
		if !since.IsZero() {
			o.SinceTime = &metav1.Time{Time: since.Add(-time.Minute)} // a line has the time of the end
		}
		stream, err := c.client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, o).Stream(ctx)
		if err != nil {
			if previous {
				continue // its log is gone too
			}
			return err
		}
		err = t.Read(stream, p.Spec.NodeName)
		stream.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
