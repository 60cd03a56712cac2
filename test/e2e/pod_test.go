//go:build e2e

package e2e

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/test/node"
)

const (
	volumeName = "secrets"
	mountPath  = "/secrets"
	// printOnce prints the file and sleeps.
	printOnce = `cat /secrets/password && echo && exec sleep 100000`
	// printChanges keeps the volume as its working directory, and prints the file at every change.
	printChanges = `cd /secrets || exit 1
while :; do
	now=$(cat password 2>&1)
	[ "$now" = "$last" ] || { echo "$now"; last=$now; }
	sleep 0.2
done`
)

func newPod(name, script string, options ...func(*corev1.Pod)) *corev1.Pod {
	// With 0 the API server would delete the pod before kubelet has stopped it.
	grace := int64(1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			ServiceAccountName:            account,
			HostNetwork:                   true,
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: node.BusyboxImage, ImagePullPolicy: corev1.PullNever,
				Command: []string{"sh", "-c", script},
			}},
		},
	}
	for _, option := range options {
		option(pod)
	}
	return pod
}

func mounts(class string) func(*corev1.Pod) { return mountsAt(volumeName, mountPath, class) }

func mountsAt(volume, path, class string) func(*corev1.Pod) {
	readOnly := true
	return func(pod *corev1.Pod) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
			CSI: &corev1.CSIVolumeSource{
				Driver: driverName, ReadOnly: &readOnly, VolumeAttributes: map[string]string{"secretProviderClass": class},
			},
		}})
		container := &pod.Spec.Containers[0]
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path, ReadOnly: true})
	}
}

func as(serviceAccount string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.ServiceAccountName = serviceAccount }
}

func once(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever }

func user(id, group int64) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &group}
	}
}

func labelled(labels map[string]string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Labels = maps.Clone(labels) }
}

func isRunning(pod *corev1.Pod) error {
	if s := pod.Status.ContainerStatuses; pod.Status.Phase == corev1.PodRunning && len(s) > 0 && s[0].State.Running != nil {
		return nil
	}
	return fmt.Errorf("it is %s: %v", pod.Status.Phase, pod.Status.ContainerStatuses)
}

func hasSucceeded(pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodSucceeded {
		return nil
	}
	return fmt.Errorf("it is %s: %v", pod.Status.Phase, pod.Status.ContainerStatuses)
}

func withoutGroup(pod *corev1.Pod) { pod.Spec.SecurityContext.FSGroup = nil }
