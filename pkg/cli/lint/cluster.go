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

// Cluster is what is judged of a cluster, with the rules for files.
type Cluster struct {
	// Driver is the name of the CSIDriver object of Mayfly.
	Driver string
	// Objects are encoded as JSON, so each must have its apiVersion and kind.
	Objects []any
	// Operator is what the driver's flags say; nil for not known.
	Operator *Operator
}

// Operator is what the driver's flags say for classes that do not.
type Operator struct {
	Vault    vault.Config
	Akeyless akeyless.Config
}

// Login is how the driver logs in for a class, as far as the class and the
// operator's flags tell.
type Login struct {
	// Built tells that the provider is one of Mayfly's own.
	Built bool
	// Audience is that of the service account token; empty for not known.
	Audience string
	// Address is empty where it is the operator's, and that is not known.
	Address string
	// Namespace, Mount and Role are Vault's, AccessID is Akeyless'.
	Namespace, Mount, Role, AccessID string
}

// Judgement is what was found of a cluster's objects.
type Judgement struct {
	Findings []finding.Finding
	// Logins are those of the classes that the driver takes.
	Logins map[class.Ref]Login
}

// Judge judges objects of a cluster: classes, pods and what makes them, and the
// CSIDriver object.
func Judge(c Cluster) (*Judgement, error) {
	l := &linter{driver: c.Driver, report: &finding.Report{}, cluster: true}
	var err error
	if l.judge, err = newJudge(c.Operator); err != nil {
		return nil, err
	}
	src := &manifest.Source{Report: l.report, Take: l.take, Text: l.parsed.add}
	for i, o := range c.Objects {
		text, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("encoding an object: %w", err)
		}
		// A name for each: what is said of a class is found by its file.
		if err := src.ReadAll(fmt.Sprintf("object %d", i+1), strings.NewReader(string(text))); err != nil {
			return nil, err
		}
	}
	l.all()
	out := &Judgement{Findings: l.report.Findings, Logins: map[class.Ref]Login{}}
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

// among says where the objects are that are judged together.
func (l *linter) among() string {
	if l.cluster {
		return "in the cluster"
	}
	return "among these files"
}
