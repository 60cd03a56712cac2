package doctor

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// driver is the installed driver; each part is nil if it could not be read or does not exist.
type driver struct {
	*look
	object    *storagev1.CSIDriver
	home      string
	set       *appsv1.DaemonSet
	container *corev1.Container
	// flags are the flags in the DaemonSet's template.
	flags map[string]string
	pods  []corev1.Pod
	// hidden says that something could not be read.
	hidden bool
	// classes are read once, for several checks.
	classes func() ([]v1.SecretProviderClass, error)
}

// findDriver reads the CSIDriver, the DaemonSet and its pods.
func findDriver(ctx context.Context, l *look) *driver {
	d := &driver{look: l, flags: map[string]string{}}
	d.classes = sync.OnceValues(func() ([]v1.SecretProviderClass, error) { return l.client.Classes(ctx, l.namespace) })
	miss := func(what finding.Object, err error) {
		d.hidden = true
		l.notSeen(what, err)
	}
	var err error
	found := 0
	if d.object, err = l.client.CSIDriver(ctx); err != nil {
		miss(finding.Object{Kind: "CSIDriver", Name: l.client.DriverName}, err)
	} else if d.object == nil {
		found++
		l.add(finding.CodeNoDriver, finding.Finding{Object: finding.Object{Kind: "CSIDriver", Name: l.client.DriverName}, Message: "the cluster has no such object, so kubelet mounts no volume of this driver"})
	}
	d.home = l.client.DriverNamespace(d.object)
	sets, err := l.client.AppsV1().DaemonSets(d.home).List(ctx, metav1.ListOptions{LabelSelector: cluster.DriverLabels, Limit: 1})
	switch {
	case err != nil:
		miss(all("DaemonSet", d.home), err)
	case len(sets.Items) == 0:
		found++
		l.add(finding.CodeNoDriver, finding.Finding{Object: all("DaemonSet", d.home), Message: fmt.Sprintf("the namespace has no DaemonSet of the driver (label %s)", cluster.DriverLabels)})
	default:
		d.set = &sets.Items[0]
		if d.container = cluster.DriverContainer(&d.set.Spec.Template.Spec); d.container != nil {
			d.flags = cluster.DriverFlags(d.container)
		}
	}
	if d.pods, err = l.client.DriverPods(ctx, d.home, ""); err != nil {
		miss(all("Pod", d.home), err)
	}
	detail := "namespace " + d.home
	if d.container != nil {
		detail += ", " + d.container.Image
	}
	l.recordCheck("the driver's installation", found, detail)
	return d
}

// audiences compares the audiences that the CSIDriver requests with those that the classes log in
// with.
func (d *driver) audiences() {
	const title = "token audiences"
	classes, err := d.classes()
	if err != nil {
		d.notSeen(all("SecretProviderClass", d.namespace), err)
	}
	d.report.Objects += len(classes)
	if d.object == nil {
		d.skip(title, "the CSIDriver could not be read")
		return
	}
	logins, loginErr := d.logins()
	if loginErr != nil { // the driver does not start with such flags
		d.skip(title, loginErr.Error())
		return
	}
	var requested []string
	for _, r := range d.object.Spec.TokenRequests {
		requested = append(requested, r.Audience)
	}
	found, server := 0, 0
	for i := range classes {
		spc := &classes[i]
		about := finding.Object{Kind: "SecretProviderClass", Namespace: spc.Namespace, Name: spc.Name}
		audience := logins.audience(spc)
		asked := audience
		if audience == identity.APIServer {
			asked = "" // as a CSIDriver names it
		}
		switch {
		case audience == "":
		case asked == "" && slices.Contains(requested, ""):
			server++
			found++
			d.add(finding.CodeServerToken, finding.Finding{Object: about, Message: "logs in with a token for the API server itself: the store, and anyone who can read it there, can act as the pod's service account"})
		case !slices.Contains(requested, asked):
			found++
			d.add(finding.CodeNoAudience, finding.Finding{Object: about, Message: fmt.Sprintf("logs in with a token for audience %q, and the CSIDriver requests %q", asked, requested)})
		}
	}
	if slices.Contains(requested, "") && server == 0 && err == nil {
		found++
		d.add(finding.CodeServerToken, finding.Finding{Object: finding.Object{Kind: "CSIDriver", Name: d.client.DriverName},
			Message: "requests tokens for the API server itself, which no class uses"})
	}
	d.recordCheck(title, found, fmt.Sprintf("the CSIDriver requests %q for %s", requested, classCount(len(classes))))
}

func classCount(n int) string {
	if n == 1 {
		return "1 class"
	}
	return fmt.Sprintf("%d classes", n)
}

// logins has the providers that know the audience of a class.
type logins map[string]*session.Engine

func (d *driver) logins() (logins, error) {
	l := logins{}
	for _, name := range []string{vault.NameVault, vault.NameOpenBao} {
		p, err := vault.New(vault.Config{Name: name, DefaultAddress: cmp.Or(d.flags["vault-addr"], "https://vault.invalid"), DefaultAudience: d.flags["vault-audience"]})
		if err != nil {
			return nil, err
		}
		l[name] = p.Engine
	}
	p, err := akeyless.New(akeyless.Config{
		DefaultAudience: cmp.Or(d.flags["akeyless-audience"], akeyless.Name), DefaultAccessID: d.flags["akeyless-access-id"],
		DefaultK8sAuthConfigName: d.flags["akeyless-k8s-auth-config"],
	})
	if err != nil {
		return nil, err
	}
	l[akeyless.Name] = p.Engine
	return l, nil
}

// audience is the audience of the token that a class logs in with; empty if unknown, for example
// for a plugin's class.
func (l logins) audience(spc *v1.SecretProviderClass) string {
	parsed, _, err := class.Parse(spc)
	if err != nil || l[parsed.Provider] == nil {
		return ""
	}
	login, err := l[parsed.Provider].Judge(parsed)
	if err != nil {
		return ""
	}
	return login.Audience
}

func (d *driver) about() finding.Object {
	return finding.Object{Kind: "DaemonSet", Namespace: d.set.Namespace, Name: d.set.Name}
}

// skipWithoutSet records a check that needs the DaemonSet if there is none.
func (d *driver) skipWithoutSet(title string) bool {
	if d.container != nil {
		return false
	}
	d.skip(title, "the driver's DaemonSet could not be read")
	return true
}

// skip records a check that cannot be made: unknown if its object may exist.
func (d *driver) skip(title, why string) {
	state := finding.Skipped
	if d.hidden || d.unseen > 0 {
		state = finding.Unknown
	}
	d.unseen = 0
	d.report.Check(title, state, why)
}

// audit checks the audit trail.
func (d *driver) audit() {
	const title = "audit trail"
	if d.skipWithoutSet(title) {
		return
	}
	where := d.flags["audit-log"]
	if where == "" {
		d.add(finding.CodeNoAudit, finding.Finding{Object: d.about(), Message: "the driver runs without --audit-log, so there is no record of which pod got which secret"})
		d.recordCheck(title, 1, "off")
		return
	}
	d.recordCheck(title, 0, "--audit-log="+where)
}

// allowList checks whether classes choose where the pods' tokens are sent.
func (d *driver) allowList() {
	const title = "allow-list of servers"
	if d.skipWithoutSet(title) {
		return
	}
	found := 0
	var set []string
	for _, flag := range []string{"vault-allowed-addresses", "akeyless-allowed-addresses"} {
		if value := d.flags[flag]; value != "" {
			set = append(set, "--"+flag+"="+value)
			continue
		}
		found++
		d.add(finding.CodeNoAllowList, finding.Finding{Object: d.about(), Message: fmt.Sprintf("%s is empty, so the author of a class chooses where the pods' tokens are sent", setting.Name("--"+flag))})
	}
	for _, loose := range []struct{ flag, means string }{
		{"vault-tls-skip-verify", "the driver does not verify the server's certificate"},
		{"allow-local-addresses", "classes may name servers at addresses of the node itself and of its cloud's metadata service"},
		{"vault-allow-cert-auth", "classes may log in by a certificate of the node, and not as the pod"},
	} {
		if d.isOn(loose.flag) {
			found++
			d.add(finding.CodeNoAllowList, finding.Finding{Object: d.about(), Message: fmt.Sprintf("--%s: %s", loose.flag, loose.means), Remedy: "remove the flag unless you need it: " + setting.Name("--"+loose.flag)})
		}
	}
	slices.Sort(set)
	d.recordCheck(title, found, cmp.Or(strings.Join(set, " "), "none"))
}

//go:embed flags.txt
var flagNames string

// flags looks for flags that this version does not have.
func (d *driver) unknownFlags() {
	const title = "the driver's flags"
	if d.skipWithoutSet(title) {
		return
	}
	known := strings.Fields(flagNames)
	found := 0
	for _, name := range sortedKeys(d.flags) {
		if slices.Contains(known, name) {
			continue
		}
		found++
		f := finding.Finding{Object: d.about(), Message: fmt.Sprintf("--%s is not a flag of the driver of this version", name)}
		if like := class.Near(name, known); like != "" {
			f.Remedy = fmt.Sprintf("did you mean --%s? Otherwise use the kubectl plugin of the driver's version", like)
		}
		d.add(finding.CodeUnknownFlag, f)
	}
	d.recordCheck(title, found, fmt.Sprintf("%d flags", len(d.flags)))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
