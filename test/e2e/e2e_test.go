//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// scenario is a case with a namespace of its own.
type scenario struct {
	name string
	run  func(*tenant)
}

// together are the cases that leave the others alone.
func together() []scenario {
	return []scenario{
		{"a pod mounts a class and reads its file", podReads},
		{"a pod that is not root reads a 0440 file through its fsGroup", fsGroupReads},
		{"a pod that is not root reads a 0400 file that belongs to it", ownerReads},
		{"file names hold directories", nestedNames},
		{"one pod mounts two classes", twoClasses},
		{"a container has the read-only part of the mount options", mountFlags},
		{"a pod waits for its class and then starts", classMissing},
		{"a class in another namespace is not found", classElsewhere},
		{"a service account that the role does not name is denied", accountDenied},
		{"the wrong audience is denied", wrongAudience},
		{"kubectl mayfly try says yes, or no with what mends it", tried},
		{"the API server refuses classes that cannot work", invalidClasses},
		{"what is ignored of a class is told in the pod's event", warned},
		{"kubectl mayfly explain names what is broken", explained},
		{"a class of the old version works", oldVersion},
		{"the driver may do what it must, and nothing else", leastRights},
		{"the driver may write its own node's objects only", boundToItsNode},
		{"a class that is wrong in itself is told in the pod's event", invalidObjects},
		{"a pod that is wrong in itself is told by kubelet, and by the driver where it can", kubeletsMistakes},
		{"a rotation is seen through the open directory", rotationSeen},
		{"an edit of the class reaches the running pod", editSeen},
		{"the applications of examples/ use what is new", examplesReload},
		{"a file mounted by subPath stays as it was", subPathStays},
		{"status and events tell what happens to a volume", statusAndEvents},
		{"kubectl mayfly shows volumes and refreshes them, for an admin and for a tenant", statusAndRefresh},
		{"nothing is left of a deleted pod", podDeleted},
		{"a pod reads Akeyless as itself, and its credentials end with it", akeylessReads},
		{"Akeyless refuses another service account and another audience", akeylessRefuses},
		{"mayfly-kms runs as a static pod, and comes back when it is killed", kmsStaticPod},
		{"the volume of a completed job goes, and its Vault token", jobCompletes},
		{"the audit trail answers, together with those of Vault and the API server", trailAnswers},
		{"a collector receives the spans of a pod's volume", traced},
		{"Prometheus answers every query of the dashboard and the alerts", prometheusAnswers},
		{"who names those of whom the API server says that they may, and those who did", whoTold},
		{"doctor judges the cluster, and tells what a person could not see", doctorTold},
	}
}

// apart are the cases that disturb others, each in its turn.
func apart() []scenario {
	return []scenario{
		{"50 pods start at once, and cost the API server one write each", fiftyPods},
		{"tokens arrive in the volume context and in secrets", tokensEitherWay},
		{"kubectl mayfly explain names what is wrong with the driver", driverExplained},
		{"pods outlive a sealed Vault, and others wait for it", vaultSealed},
		{"a rotation restarts a Deployment once, and nothing else does", restarted},
		{"pods use the Kubernetes Secrets of their own class", secretsUsed},
		{"files rotate while the API server is down", apiServerDown},
		{"volumes outlive a roll of the DaemonSet", driverRolled},
		{"volumes outlive a driver that is killed", driverKilled},
		{"volumes outlive a restart of kubelet", kubeletRestarted},
		{"volumes outlive the driver's removal", driverReinstalled},
		{"what the pages print runs", pagesRun},
		{"no pod is scheduled before the driver is ready", taintRemoved},
		{"pods come back after a reboot of the node", nodeRebooted},
	}
}

func TestE2E(t *testing.T) {
	t.Run("together", func(t *testing.T) {
		for _, s := range together() {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				play(t, s)
			})
		}
	})
	shared.checkLogs(t)
	for _, s := range apart() {
		t.Run(s.name, func(t *testing.T) {
			testkit.Must(t, context.Cause(shared.ctx))
			testkit.Must(t, shared.driver.mend(t.Context()))
			play(t, s)
			shared.checkLogs(t)
		})
	}
}

func play(t *testing.T, s scenario) {
	began := time.Now()
	t.Cleanup(func() { shared.results.record(t, s.name, began) })
	c := shared.newTenant(t)
	s.run(c)
}
