package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
)

const (
	migrationGroup = "storagemigration.k8s.io"
	// lookEvery is how often a migration is looked at.
	lookEvery = 2 * time.Second
)

// MigrationVersion is the version of StorageVersionMigration that the cluster
// serves; empty for none that is known here. v1alpha1 had another form.
func (c *Cluster) MigrationVersion(ctx context.Context) (string, error) {
	var group struct {
		Versions []struct {
			Version string `json:"version"`
		} `json:"versions"`
	}
	err := c.main.do(ctx, call{method: http.MethodGet, path: "/apis/" + migrationGroup, accept: contentJSON, into: &group})
	if Refused(err, http.StatusNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("asking for StorageVersionMigration: %w", err)
	}
	for _, known := range []string{"v1", "v1beta1"} {
		for _, v := range group.Versions {
			if v.Version == known {
				return known, nil
			}
		}
	}
	return "", nil
}

// migration is a StorageVersionMigration.
type migration struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   objectMeta      `json:"metadata"`
	Spec       migrationSpec   `json:"spec"`
	Status     migrationStatus `json:"status,omitzero"`
}

type migrationSpec struct {
	Resource groupResource `json:"resource"`
}

type groupResource struct {
	Group    string `json:"group"`
	Resource string `json:"resource"`
}

type migrationStatus struct {
	Conditions []condition `json:"conditions"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type objectMeta struct {
	Name            string `json:"name,omitempty"`
	GenerateName    string `json:"generateName,omitempty"`
	Namespace       string `json:"namespace,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

func (m *migration) is(kind string) (condition, bool) {
	i := slices.IndexFunc(m.Status.Conditions, func(c condition) bool { return c.Type == kind && c.Status == "True" })
	if i < 0 {
		return condition{}, false
	}
	return m.Status.Conditions[i], true
}

// Migrate has the cluster write all objects of a resource anew, by a
// StorageVersionMigration, and waits for its end. progress is told what the
// migration says. Where ctx ends before, the cluster goes on with it.
func (c *Cluster) Migrate(ctx context.Context, version string, r scan.Resource, progress func(string)) error {
	base := "/apis/" + migrationGroup + "/" + version + "/storageversionmigrations"
	asked := migration{
		APIVersion: migrationGroup + "/" + version, Kind: "StorageVersionMigration",
		Metadata: objectMeta{GenerateName: "mayfly-kms-" + r.Name + "-"},
		Spec:     migrationSpec{groupResource{r.Group, r.Name}},
	}
	var m migration
	err := c.main.do(ctx, call{method: http.MethodPost, path: base, accept: contentJSON, contentType: contentJSON, body: asked, into: &m})
	if err != nil {
		return fmt.Errorf("creating a StorageVersionMigration for %s: %w", r, err)
	}
	name := m.Metadata.Name
	progress("StorageVersionMigration " + name + " created")
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for StorageVersionMigration %s, which goes on: %w", name, context.Cause(ctx))
		case <-ticker.C:
		}
		m = migration{}
		err := c.main.do(ctx, call{method: http.MethodGet, path: base + "/" + name, accept: contentJSON, into: &m})
		if err != nil && !isTransient(err) {
			return fmt.Errorf("looking at StorageVersionMigration %s: %w", name, err)
		}
		if err != nil {
			progress("looking at StorageVersionMigration " + name + ": " + err.Error())
			continue
		}
		if running, ok := m.is("Running"); ok && running.Message != said {
			said = running.Message
			progress(said)
		}
		if failed, ok := m.is("Failed"); ok {
			return fmt.Errorf("StorageVersionMigration %s failed: %s %s", name, failed.Reason, failed.Message)
		}
		if _, ok := m.is("Succeeded"); ok {
			return c.remove(ctx, base+"/"+name)
		}
	}
}

// remove deletes a migration that is over: it has no further use.
func (c *Cluster) remove(ctx context.Context, path string) error {
	err := c.main.do(ctx, call{method: http.MethodDelete, path: path, accept: contentJSON})
	if err != nil && !Refused(err, http.StatusNotFound) {
		return fmt.Errorf("deleting the StorageVersionMigration that has succeeded: %w", err)
	}
	return nil
}
