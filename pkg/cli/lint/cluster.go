package lint

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/manifest"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// Cluster is the objects of a cluster to check with the rules for files.
type Cluster struct {
	// Driver is the name of the CSIDriver object of Mayfly.
	Driver string
	// Objects are encoded as JSON, so each must have its apiVersion and kind.
	Objects []any
	// Operator is the operator's settings in the driver's flags; nil if unknown.
	Operator *Operator
}

// Operator is the operator's settings in the driver's flags.
type Operator struct {
	Vault    vault.Config
	Akeyless akeyless.Config
	// SyncSecrets tells that the driver writes the Secrets of classes.
	SyncSecrets bool
}

// Login is how the driver logs in for a class, as far as the class and the operator's flags say.
type Login struct {
	// Built says that the provider is built in.
	Built bool
	// Audience is the audience of the service account token; empty if unknown.
	Audience string
	// Address is empty if it is the operator's and unknown.
	Address string
	// Fallback is the second address of the store; empty for none.
	Fallback string
	// Namespace, Mount and Role are Vault's, AccessID is Akeyless'.
	Namespace, Mount, Role, AccessID string
}

// Result is the findings about a cluster's objects.
type Result struct {
	Findings []finding.Finding
	// Logins are those of the classes that the driver accepts.
	Logins map[class.Ref]Login
}

// Check checks objects of a cluster: classes, pods and the objects that make them, and the
// CSIDriver object.
func Check(c Cluster) (*Result, error) {
	l := &linter{driver: c.Driver, report: &finding.Report{}, cluster: true, operator: c.Operator}
	var err error
	if l.checker, err = newChecker(c.Operator); err != nil {
		return nil, err
	}
	src := &manifest.Source{Report: l.report, Take: l.take, Text: l.parsed.add}
	for i, o := range c.Objects {
		text, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("encoding an object: %w", err)
		}
		// Each class gets a name of its own, because its mistakes are found by the file's name.
		if err := src.ReadAll(fmt.Sprintf("object %d", i+1), strings.NewReader(string(text))); err != nil {
			return nil, err
		}
	}
	l.all()
	out := &Result{Findings: l.report.Findings, Logins: map[class.Ref]Login{}}
	for i := range out.Findings {
		out.Findings[i].File, out.Findings[i].Line = "", 0
	}
	for _, k := range l.classes {
		if k.class != nil {
			out.Logins[k.class.Ref] = k.login
		}
	}
	return out, nil
}

// among names the place of the objects that are checked together.
func (l *linter) among() string {
	if l.cluster {
		return "in the cluster"
	}
	return "in these files"
}
