package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	migrationGroup = "storagemigration.k8s.io"
	// lookEvery is the time between two reads of a migration.
	lookEvery = time.Second
	// takenUpWithin is the usual time until a controller begins.
	takenUpWithin = time.Minute
	// maxWoken bounds the patches of wake.
	maxWoken = 50
)

// MigrationVersion is the version of StorageVersionMigration that the cluster serves; empty if this
// program knows none of them. v1alpha1 had another form.
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
	ResourceVersion string      `json:"resourceVersion"`
	Conditions      []condition `json:"conditions"`
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

// ErrNotTakenUp says that no controller works on a migration.
var ErrNotTakenUp = errors.New("no controller has taken it up: kube-controller-manager must run with StorageVersionMigrator")

// Migrate makes the cluster rewrite all objects of a resource, with a StorageVersionMigration, and
// waits for its end. It reports the migration's conditions to progress. If ctx ends before, the
// cluster continues.
func (c *Cluster) Migrate(ctx context.Context, version string, k Kind, progress func(string)) error {
	base := "/apis/" + migrationGroup + "/" + version + "/storageversionmigrations"
	asked := migration{
		APIVersion: migrationGroup + "/" + version, Kind: "StorageVersionMigration",
		Metadata: objectMeta{GenerateName: "mayfly-kms-" + k.Name + "-"},
		Spec:     migrationSpec{groupResource{k.Group, k.Name}},
	}
	var m migration
	err := c.main.do(ctx, call{method: http.MethodPost, path: base, accept: contentJSON, contentType: contentJSON, body: asked, into: &m})
	if err != nil {
		return fmt.Errorf("creating a StorageVersionMigration for %s: %w", k.Resource, err)
	}
	progress("StorageVersionMigration " + m.Metadata.Name + " created")
	w := watcher{Cluster: c, kind: k, path: base + "/" + m.Metadata.Name, name: m.Metadata.Name, progress: progress, began: time.Now()}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for StorageVersionMigration %s, which continues in the cluster: %w", w.name, context.Cause(ctx))
		case <-ticker.C:
		}
		if over, err := w.look(ctx); over || err != nil {
			return err
		}
	}
}

// watcher follows one migration.
type watcher struct {
	*Cluster
	kind       Kind
	path, name string
	progress   func(string)
	began      time.Time
	said       string
	woken      bool
}

// look reads the migration once, and reports whether it has succeeded.
func (w *watcher) look(ctx context.Context) (over bool, err error) {
	var m migration
	err = w.main.do(ctx, call{method: http.MethodGet, path: w.path, accept: contentJSON, into: &m})
	switch {
	case err != nil && !isTransient(err):
		return false, fmt.Errorf("looking at StorageVersionMigration %s: %w", w.name, err)
	case err != nil:
		w.progress("looking at StorageVersionMigration " + w.name + ": " + err.Error())
		return false, nil
	}
	if failed, ok := m.is("Failed"); ok {
		return false, fmt.Errorf("StorageVersionMigration %s failed: %s %s", w.name, failed.Reason, failed.Message)
	}
	if _, ok := m.is("Succeeded"); ok {
		return true, w.remove(ctx, w.path)
	}
	if len(m.Status.Conditions) == 0 && m.Status.ResourceVersion == "" && time.Since(w.began) > w.takenUp {
		return false, errors.Join(fmt.Errorf("StorageVersionMigration %s: %w", w.name, ErrNotTakenUp), w.remove(ctx, w.path))
	}
	if running, ok := m.is("Running"); ok && running.Message != w.said {
		w.said = running.Message
		w.progress(w.said)
	}
	if m.Status.ResourceVersion != "" && !w.woken {
		w.woken = true
		w.wake(ctx)
	}
	return false, nil
}

// wake rewrites one object. The controller waits until its cache of the resource is as new as the
// migration, which may never happen on a quiet cluster: the cache only learns about new versions
// from changes of the resource.
func (w *watcher) wake(ctx context.Context) {
	var list names
	path := fmt.Sprintf("%s/%s?limit=%d", w.kind.base(), w.kind.Name, maxWoken)
	if err := w.main.do(ctx, call{method: http.MethodGet, path: path, accept: listNames, into: &list}); err != nil {
		w.progress(err.Error())
		return
	}
	for _, item := range list.Items {
		if version, err := w.patch(ctx, w.kind, item.Metadata); err == nil && version != item.Metadata.ResourceVersion {
			return
		}
	}
}

// remove deletes a finished migration, which has no further use.
func (c *Cluster) remove(ctx context.Context, path string) error {
	err := c.main.do(ctx, call{method: http.MethodDelete, path: path, accept: contentJSON})
	if err != nil && !Refused(err, http.StatusNotFound) {
		return fmt.Errorf("deleting the StorageVersionMigration that has succeeded: %w", err)
	}
	return nil
}
