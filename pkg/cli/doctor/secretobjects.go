package doctor

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
	"github.com/mayfly-csi/mayfly/pkg/secretsync/ownership"
)

// syncFlag switches on that the driver writes Secrets.
const syncFlag = "sync-secrets"

// wanted is one Secret that a class lists.
type wanted struct {
	class finding.Object
	v1.SecretObject
}

// secretObjects checks whether the driver can write the Kubernetes Secrets of classes.
func (d *driver) secretObjects(ctx context.Context) {
	const title = "Kubernetes Secrets of classes"
	if d.skipWithoutSet(title) {
		return
	}
	secrets, found := d.wantedSecrets()
	detail := output.Plural(len(secrets), "Secret")
	if !d.isOn(syncFlag) {
		d.recordCheck(title, found+d.reportOff(secrets), detail+"; the driver writes none")
		return
	}
	if len(secrets) > 0 {
		found += d.refused(secrets) + d.foreign(ctx, secrets)
	}
	d.recordCheck(title, found, detail)
}

// isOn reports whether a flag without a default is set.
func (d *driver) isOn(flag string) bool {
	value := d.flags[flag]
	return value != "" && value != "false"
}

// wantedSecrets lists the usable entries of all classes; what is wrong with others, lint says. It
// reports a name that two classes list: the first that writes it has it.
func (d *driver) wantedSecrets() (secrets []wanted, found int) {
	classes, err := d.classes()
	if err != nil {
		d.notSeen(all("SecretProviderClass", d.namespace), err)
	}
	first := map[string]string{}
	for i := range classes {
		parsed, _, err := class.Parse(&classes[i])
		if err != nil {
			continue
		}
		about := finding.Object{Kind: "SecretProviderClass", Namespace: parsed.Namespace, Name: parsed.Name}
		for _, o := range parsed.SecretObjects {
			name := parsed.Namespace + "/" + o.SecretName
			if other := first[name]; other != "" {
				found++
				d.add(finding.CodeSecretOfOther, finding.Finding{Object: about, Message: fmt.Sprintf("lists Secret %q, as class %q does: it belongs to the one that writes it first", o.SecretName, other),
					Remedy: "give one of them another secretName"})
				continue
			}
			first[name] = parsed.Name
			secrets = append(secrets, wanted{about, o})
		}
	}
	return secrets, found
}

// reportOff reports the classes with Secrets of a driver that writes none.
func (d *driver) reportOff(secrets []wanted) (found int) {
	for len(secrets) > 0 {
		about := secrets[0].class
		var list some
		for len(secrets) > 0 && secrets[0].class == about {
			list.add(secrets[0].SecretName)
			secrets = secrets[1:]
		}
		found++
		d.add(finding.CodeSecretsOff, finding.Finding{Object: about, Message: fmt.Sprintf("lists %s under secretObjects (%s), and the driver runs without --%s", output.Plural(list.count, "Secret"), &list, syncFlag)})
	}
	return found
}

// refused reports the Secrets that the driver has no right to write, or whose type the chart's
// policy forbids.
func (d *driver) refused(secrets []wanted) (found int) {
	account := rbac.Account(d.home, cluster.AccountOf(&d.set.Spec.Template.Spec))
	if !d.allRoles {
		d.unseen++ // the check of readers has said what it did not see
	}
	for _, w := range secrets {
		if corev1.SecretType(w.Type) == corev1.SecretTypeBootstrapToken {
			found++
			d.add(finding.CodeSecretRefused, finding.Finding{Object: w.class, Message: fmt.Sprintf("lists Secret %q of type %s, which the chart's policy forbids: it is a credential for the cluster's API server", w.SecretName, w.Type),
				Remedy: "use another type"})
		}
		if !d.allRoles {
			continue
		}
		var missing []string
		for _, verb := range []string{"create", "patch"} {
			if !d.roles.May(account, rbac.Request{Verb: verb, Resource: "secrets", Namespace: w.class.Namespace, Name: w.SecretName}) {
				missing = append(missing, verb)
			}
		}
		if len(missing) > 0 {
			found++
			d.add(finding.CodeSecretRefused, finding.Finding{Object: w.class, Message: fmt.Sprintf("lists Secret %q, which %s may not %s", w.SecretName, account, strings.Join(missing, " or "))})
		}
	}
	return found
}

// foreign reports the Secrets that their class has not made.
func (d *driver) foreign(ctx context.Context, secrets []wanted) (found int) {
	byName := map[string]wanted{}
	for _, w := range secrets {
		byName[w.class.Namespace+"/"+w.SecretName] = w
	}
	err := d.metadata(ctx, "secrets", metav1.ListOptions{}, func(m *metav1.PartialObjectMetadata) {
		w, ok := byName[m.Namespace+"/"+m.Name]
		if !ok || ownership.EntryOf(m, w.class.Name) != nil {
			return
		}
		found++
		d.add(finding.CodeSecretOfOther, finding.Finding{Object: w.class, Message: fmt.Sprintf("lists Secret %q, which is there already and belongs to %s", w.SecretName, ownership.Owners(m))})
	})
	if err != nil {
		d.notSeen(all("Secret", d.namespace), err)
	}
	return found
}
