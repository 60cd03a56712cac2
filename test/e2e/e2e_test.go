//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// scenario is a case, which gets a namespace of its own.
type scenario struct {
	name string
	run  func(*tenant)
}

// together are the cases that run in parallel: none disturbs another.
func together() []scenario {
	return []scenario{
		{"a pod that is not root reads a 0440 file through its fsGroup", fsGroupReads},
		{"a pod that is not root reads a 0400 file that belongs to it", ownerReads},
		{"file names hold directories", nestedNames},
		{"one pod mounts two classes", twoClasses},
		{"a container sees the volume as read-only", mountFlags},
		{"a pod waits for its class and then starts", classMissing},
		{"a class in another namespace is not found", classElsewhere},
		{"a service account that the role does not name is denied", accountDenied},
		{"the wrong audience is denied", wrongAudience},
		{"kubectl mayfly try accepts a class, or prints the commands that repair it", tryCommand},
		{"the API server refuses classes that cannot work", invalidClasses},
		{"the pod's event names the settings of a class that are ignored", ignoredSettings},
		{"kubectl mayfly explain names the cause of a failure", explainCommand},
		{"a class of API version v1alpha1 works", oldVersion},
		{"the driver's RBAC rules allow what it needs and nothing else", driverRights},
		{"the driver may write its own node's objects only", boundToItsNode},
		{"the pod's event names the invalid field of a class", invalidObjects},
		{"a rotation is seen through the open directory", rotationInOpenDirectory},
		{"an edit of the class reaches the running pod", classEdited},
		{"the applications of examples/ use rotated secrets without a restart", examplesReload},
		{"a file mounted by subPath does not change", subPathStays},
		{"status and events follow a rotation, a denial and a recovery", statusAndEvents},
		{"kubectl mayfly shows volumes and refreshes them, for an admin and for a tenant", statusAndRefresh},
		{"a deleted pod leaves no mount, no folder and no Vault token", podDeleted},
		{"a pod reads Akeyless secrets, and its dynamic credentials are revoked with it", akeylessReads},
		{"Akeyless refuses another service account and another audience", akeylessRefuses},
		{"mayfly-kms runs as a static pod, and serves again after a kill", kmsStaticPod},
		{"the volume of a completed job is unmounted and its Vault token revoked", jobCompletes},
		{"the queries of docs/audit.md find their answers in the three audit logs", auditQueries},
		{"a collector receives the spans of a pod's volume", spansExported},
		{"Prometheus answers every query of the dashboard and the alerts", prometheusAnswers},
		{"who names the subjects that the API server allows, and the pods that read", whoCommand},
		{"doctor checks the cluster, and names what the user may not read", doctorCommand},
	}
}

// apart are the cases that disturb others, so each runs alone.
func apart() []scenario {
	return []scenario{
		{"50 pods start at once with one API server write each", fiftyPods},
		{"kubelet passes tokens in the volume context or in secrets", tokenTransports},
		{"kubectl mayfly explain names a broken installation of the driver", explainDriver},
		{"running pods keep their files while Vault is sealed, and new pods wait", vaultSealed},
		{"a rotation restarts a Deployment once, a driver restart never", rotationRestarts},
		{"pods use the Kubernetes Secrets of their own class", secretsSynced},
		{"files rotate while the API server is down", apiServerDown},
		{"volumes outlive an upgrade of the DaemonSet", driverRolled},
		{"volumes outlive a driver that is killed", driverKilled},
		{"volumes outlive a restart of kubelet", kubeletRestarted},
		{"volumes outlive the driver's removal", driverReinstalled},
		{"the commands and manifests of the docs run", docsRun},
		{"the start-up taint keeps pods away until the driver is ready", taintRemoved},
		{"pods start again after a reboot of the node", nodeRebooted},
	}
}

func TestE2E(t *testing.T) {
	t.Run("together", func(t *testing.T) {
		for _, s := range together() {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				runScenario(t, s)
			})
		}
	})
	shared.checkLogs(t)
	for _, s := range apart() {
		t.Run(s.name, func(t *testing.T) {
			testkit.Must(t, context.Cause(shared.ctx))
			testkit.Must(t, shared.driver.reinstallIfBroken(t.Context()))
			runScenario(t, s)
			shared.checkLogs(t)
		})
	}
}

func runScenario(t *testing.T, s scenario) {
	began := time.Now()
	t.Cleanup(func() { shared.results.record(t, s.name, began) })
	c := shared.newTenant(t)
	s.run(c)
}
