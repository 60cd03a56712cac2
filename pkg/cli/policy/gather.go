package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/manifest"
	"github.com/mayfly-csi/mayfly/pkg/cli/operator"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
)

// input is the classes, and the accounts that mount them.
type input struct {
	operator operator.Settings
	classes  []v1.SecretProviderClass
	accounts map[class.Ref][]access.Account
}

const (
	keyClass         = "secretProviderClass"
	defaultNamespace = "default"
	defaultAccount   = "default"
)

func (in *input) mount(ref class.Ref, account string) {
	if account == "" {
		account = defaultAccount
	}
	if a := (access.Account{Namespace: ref.Namespace, Name: account}); !slices.Contains(in.accounts[ref], a) {
		in.accounts[ref] = append(in.accounts[ref], a)
	}
}

func (c *command) gather(ctx context.Context, names []string) (*input, error) {
	in := &input{accounts: map[class.Ref][]access.Account{}}
	var err error
	if len(c.files) > 0 {
		err = c.fromFiles(in, names)
	} else {
		err = c.fromCluster(ctx, in, names)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !slices.ContainsFunc(in.classes, func(k v1.SecretProviderClass) bool { return k.Name == name }) {
			return nil, fmt.Errorf("there is no SecretProviderClass %q", name)
		}
	}
	for i := range in.classes {
		if err := c.named(in, &in.classes[i]); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// named replaces the pods' accounts by those of --serviceaccount.
func (c *command) named(in *input, k *v1.SecretProviderClass) error {
	if len(c.accounts) == 0 {
		return nil
	}
	ref := class.Ref{Namespace: k.Namespace, Name: k.Name}
	in.accounts[ref] = nil
	for _, text := range c.accounts {
		namespace, name, full := strings.Cut(text, "/")
		switch {
		case !full:
			in.mount(ref, text)
		case namespace == "" || name == "":
			return fmt.Errorf("--serviceaccount: must be NAME or NAMESPACE/NAME, not %q", text)
		case namespace == k.Namespace: // a pod mounts classes of its own namespace only
			in.mount(ref, name)
		}
	}
	return nil
}

func (c *command) fromFiles(in *input, names []string) error {
	namespace := c.cluster.Namespace()
	if namespace == "" {
		namespace = defaultNamespace
	}
	var bad error
	src := &manifest.Source{Report: c.report, Stdin: c.streams.In}
	src.Take = func(o *manifest.Object) { c.takePod(in, o, namespace) }
	src.Text = func(file string, d class.Document) {
		classes, _, err := class.ParseManifest(d.Text)
		if err != nil && bad == nil {
			bad = fmt.Errorf("reading %s: %w", file, err)
		}
		for _, k := range classes {
			if k.Namespace == "" {
				k.Namespace = namespace
			}
			if len(names) == 0 || slices.Contains(names, k.Name) {
				in.classes = append(in.classes, *k)
			}
		}
	}
	for _, name := range c.files {
		if err := src.Read(name); err != nil {
			return err
		}
	}
	return bad
}

// takePod records which classes a pod or workload of the files mounts.
func (c *command) takePod(in *input, o *manifest.Object, namespace string) {
	path := manifest.PodPath(o.Kind)
	if path == nil {
		return
	}
	if o.Namespace != "" {
		namespace = o.Namespace
	}
	spec := o.Get(o.Node, path...)
	for _, v := range o.Items(spec, "volumes") {
		csi := o.Get(v, "csi")
		if csi != nil && o.Text(csi, "driver") == c.cluster.DriverName {
			in.mount(class.Ref{Namespace: namespace, Name: o.Text(csi, "volumeAttributes", keyClass)}, o.Text(spec, "serviceAccountName"))
		}
	}
}

func (c *command) fromCluster(ctx context.Context, in *input, names []string) error {
	client, err := c.cluster.Connect(c.streams)
	if err != nil {
		return err
	}
	namespace := client.Namespace
	if c.everyNS {
		namespace = ""
	}
	if c.all {
		if in.classes, err = client.Classes(ctx, namespace); err != nil {
			return fmt.Errorf("listing classes: %s", cluster.Reason(err))
		}
	}
	for _, name := range names {
		k, err := client.Class(ctx, namespace, name)
		if err != nil {
			return fmt.Errorf("reading SecretProviderClass %s/%s: %s", namespace, name, cluster.Reason(err))
		}
		in.classes = append(in.classes, *k)
	}
	c.report.Objects += len(in.classes)
	in.operator = operator.Look(ctx, client, c.report)
	if len(c.accounts) > 0 {
		return nil
	}
	err = cluster.Pages(func(o metav1.ListOptions) (string, error) {
		list, err := client.CoreV1().Pods(namespace).List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			c.takeLive(in, &list.Items[i])
		}
		return list.Continue, nil
	})
	if err != nil {
		cluster.NotSeen(c.report, finding.Object{Kind: "Pod", Namespace: namespace}, err)
	}
	return nil
}

func (c *command) takeLive(in *input, pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		if csi := pod.Spec.Volumes[i].CSI; csi != nil && csi.Driver == c.cluster.DriverName {
			in.mount(class.Ref{Namespace: pod.Namespace, Name: csi.VolumeAttributes[keyClass]}, pod.Spec.ServiceAccountName)
		}
	}
}

// needs returns what each class needs, of Vault and of Akeyless.
func (c *command) needs(in *input, j *judges) (vaults []access.Asked, gateways []access.AskedOfAkeyless) {
	for i := range in.classes {
		ref := class.Ref{Namespace: in.classes[i].Namespace, Name: in.classes[i].Name}
		parsed, _, err := class.Parse(&in.classes[i])
		if err != nil {
			c.refused(ref, err)
			continue
		}
		switch p := j.vaults[parsed.Provider]; {
		case p != nil:
			need, err := p.Needs(parsed)
			if err != nil {
				c.refused(ref, err)
				continue
			}
			if need.Address == unknownAddress+":443" {
				need.Address = ""
			}
			vaults = append(vaults, access.Asked{Class: ref, Need: need, Accounts: in.accounts[ref]})
		case parsed.Provider == akeyless.Name:
			need, err := j.akeyless.Needs(parsed)
			if err != nil {
				c.refused(ref, err)
				continue
			}
			gateways = append(gateways, access.AskedOfAkeyless{Class: ref, Need: need, Accounts: in.accounts[ref]})
			c.noAccount(ref, in, need)
		default:
			c.report.Add(finding.CodePolicyUnsupported, finding.Finding{
				Object: access.ObjectOf(ref), Message: fmt.Sprintf("its provider %q is a plugin, whose rights Mayfly does not know", parsed.Provider),
			})
		}
	}
	return vaults, gateways
}

func (c *command) noAccount(ref class.Ref, in *input, need akeyless.Need) {
	switch {
	case !need.Claims:
		c.report.Add(finding.CodePolicyUnsupported, finding.Finding{
			Object:  access.ObjectOf(ref),
			Message: fmt.Sprintf("access type %s does not log in as the pod's service account, so a role cannot be bound to one", need.AccessType),
			Remedy:  "use the access type k8s or jwt",
		})
	case len(in.accounts[ref]) == 0:
		c.report.Add(finding.CodePolicyNoAccount, finding.Finding{Object: access.ObjectOf(ref), Message: "no pod that mounts it was found, so the role is not bound to a service account"})
	}
}

func (c *command) refused(ref class.Ref, err error) {
	c.report.Add(finding.CodePolicyRefused, finding.Finding{Object: access.ObjectOf(ref), Message: fault.Cause(err), Remedy: fault.Hint(err)})
}
