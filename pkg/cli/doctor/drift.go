package doctor

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// crdFiles are those of charts/mayfly/files/crds; hack/generate.sh writes both.
//
//go:embed crds
var crdFiles embed.FS

// crd is the part of a CustomResourceDefinition that is compared.
type crd struct {
	Metadata struct{ Name string }
	Spec     struct {
		Versions []crdVersion
	}
}

type crdVersion struct {
	Name    string
	Served  bool
	Storage bool
	Schema  struct {
		OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
	}
	Subresources map[string]any
}

func ownCRDs() ([]crd, error) {
	names, err := fs.Glob(crdFiles, "crds/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []crd
	for _, name := range names {
		data, err := crdFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var one crd
		if err := yaml.Unmarshal(data, &one); err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
		all = append(all, one)
	}
	return all, nil
}

// crds compares the cluster's CRDs with those of this version.
func crds(ctx context.Context, l *look) {
	own, err := ownCRDs()
	if err != nil {
		panic(err) // they are embedded in the program
	}
	found := 0
	for i := range own {
		name := own[i].Metadata.Name
		about := finding.Object{Kind: "CustomResourceDefinition", Name: name}
		data, err := raw(l.client.CoreV1().RESTClient().Get().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", name).Do(ctx))
		var theirs crd
		if err == nil {
			err = json.Unmarshal(data, &theirs)
		}
		switch {
		case apierrors.IsNotFound(err):
			found++
			l.add(finding.CodeCRDDiffers, finding.Finding{Level: finding.Error, Object: about, Message: "the cluster has no such CRD"})
		case err != nil:
			l.notSeen(about, err)
		default:
			if diff := compareCRDs(&own[i], &theirs); len(diff) > 0 {
				found++
				l.add(finding.CodeCRDDiffers, finding.Finding{Object: about, Message: fmt.Sprintf("differs from that of this version in %s: %s", output.Plural(len(diff), "place"), listed(diff, maxNames))})
			}
		}
	}
	l.recordCheck("CRDs", found, output.Plural(len(own), "CRD"))
}

// compareCRDs names the places where two CRDs accept or store different fields.
func compareCRDs(own, theirs *crd) []string {
	var diff []string
	for i := range own.Spec.Versions {
		mine := &own.Spec.Versions[i]
		at := slices.IndexFunc(theirs.Spec.Versions, func(v crdVersion) bool {
			return v.Name == mine.Name
		})
		if at < 0 {
			diff = append(diff, "version "+mine.Name+" is missing")
			continue
		}
		other := &theirs.Spec.Versions[at]
		if mine.Served != other.Served || mine.Storage != other.Storage {
			diff = append(diff, "version "+mine.Name+" is served or stored differently")
		}
		compare(mine.Name, mine.Schema.OpenAPIV3Schema, other.Schema.OpenAPIV3Schema, &diff)
		compare(mine.Name+".subresources", mine.Subresources, other.Subresources, &diff)
	}
	return diff
}

// compare names the places where two schemas differ, except for descriptions.
func compare(at string, a, b any, diff *[]string) {
	x, isMap := a.(map[string]any)
	y, isMap2 := b.(map[string]any)
	if !isMap || !isMap2 {
		if !reflect.DeepEqual(a, b) {
			*diff = append(*diff, at)
		}
		return
	}
	for _, key := range sortedKeys(x) {
		if key == "description" {
			continue
		}
		if _, ok := y[key]; !ok {
			*diff = append(*diff, at+"."+key+" is missing")
			continue
		}
		compare(at+"."+key, x[key], y[key], diff)
	}
	for _, key := range sortedKeys(y) {
		if _, ok := x[key]; !ok && key != "description" {
			*diff = append(*diff, at+"."+key+" belongs to another driver")
		}
	}
}

// policies looks for the admission policies of the chart, whose names begin with the DaemonSet's.
func (d *driver) policies(ctx context.Context) {
	const title = "admission policies"
	if d.skipWithoutSet(title) {
		return
	}
	found := 0
	api := d.client.AdmissionregistrationV1()
	var names []string
	type policy struct{ suffix, without string }
	wanted := []policy{
		{"-class-warnings", "kubectl apply does not warn of what the driver ignores in a class"},
		{"-driver-on-its-node", "the driver of one node may write the statuses and Events of all"},
	}
	if d.isOn(syncFlag) {
		wanted = append(wanted, policy{"-secrets", "the driver's right to patch Secrets reads and changes those of others too"})
	}
	for _, policy := range wanted {
		name := d.set.Name + policy.suffix
		names = append(names, name)
		note := func(kind string, err error) {
			about := finding.Object{Kind: kind, Name: name}
			switch {
			case apierrors.IsNotFound(err):
				found++
				d.add(finding.CodeNoPolicy, finding.Finding{Object: about, Message: "the cluster has none of that name, so " + policy.without})
			case err != nil:
				d.notSeen(about, err)
			}
		}
		_, err := api.ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		note("ValidatingAdmissionPolicy", err)
		_, err = api.ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		note("ValidatingAdmissionPolicyBinding", err)
	}
	d.recordCheck(title, found, strings.Join(names, ", "))
}
