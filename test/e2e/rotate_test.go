//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// rotationInOpenDirectory has a shell whose working directory is the volume, while its content changes.
func rotationInOpenDirectory(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	c.run(newPod("watcher", printChanges, mounts("db")))
	want := marker + "one\n"
	c.awaitLog("watcher", want)
	for _, value := range []string{"two", "three"} {
		c.put("db", value)
		want += marker + value + "\n"
		c.awaitLog("watcher", want)
	}
}

// classEdited annotates a mounted class, which makes the driver refresh its volumes at once.
func classEdited(c *tenant) {
	c.put("db", "one")
	c.class("db", map[string]string{"refreshInterval": "1h"}, c.object("password", "db"))
	pod := c.run(newPod("edited", printChanges, mounts("db")))
	c.put("db", "two")
	patch := []byte(`{"metadata":{"annotations":{"mayfly.dev/refresh":"now"}}}`)
	testkit.Must(c.t, c.patchClass(c.t.Context(), "db", patch))
	c.awaitFile(pod, "two")
	c.awaitLog("edited", marker+"one\n"+marker+"two\n")
}

// subPathStays checks that a container which mounts one file by subPath keeps the content that it
// started with, as the documentation says.
func subPathStays(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	pod := newPod("stale", `cat /password; echo; until [ -e /tmp/again ]; do sleep 0.2; done; cat /password; echo; exec sleep 100000`, mounts("db"))
	sub := corev1.VolumeMount{Name: volumeName, MountPath: "/password", SubPath: "password", ReadOnly: true}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{sub}
	trigger := "trigger"
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: trigger, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: trigger, MountPath: "/tmp"})
	made := c.run(pod)
	c.awaitLog("stale", marker+"one\n")
	c.put("db", "two")
	c.awaitFile(made, "two")
	c.touch(made, trigger, "again")
	c.awaitLog("stale", marker+"one\n"+marker+"one\n")
}

func isMounted(s podStatus) error {
	if !s.Status.Mounted || len(s.Status.Objects) != 1 {
		return fmt.Errorf("it is %+v", s.Status)
	}
	return nil
}

// hasConditions checks Ready and Fresh, and the fields that depend on them.
func hasConditions(s podStatus, ready, fresh string, failing bool) error {
	now := map[string]string{}
	for _, c := range s.Status.Conditions {
		if now[c.Type] = string(c.Status); c.Reason == "" || c.LastTransitionTime.IsZero() {
			return fmt.Errorf("condition %s has no reason or time", c.Type)
		}
	}
	if now[names.Ready] != ready || now[names.Fresh] != fresh || s.Status.Failing != failing || s.Status.Mounted != (ready == "True") {
		return fmt.Errorf("it is %+v", s.Status)
	}
	return nil
}

// statusAndEvents follows a volume through a rotation, a denial and its end.
func statusAndEvents(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	pod := c.run(newPod("reader", printChanges, mounts("db")))
	first := c.awaitStatus(pod, isMounted)
	if first.Status.TargetPath != c.volume(pod, volumeName) {
		c.t.Errorf("the status has the target path %q", first.Status.TargetPath)
	}
	if want := "reader-" + c.ns + "-db"; first.Name != want {
		c.t.Errorf("the status has the name %s, want %s", first.Name, want)
	}
	if owners := first.OwnerReferences; len(owners) != 1 || owners[0].UID != pod.UID {
		c.t.Errorf("the status is owned by %v, want the pod", owners)
	}
	c.put("db", "two")
	second := c.awaitStatus(pod, func(s podStatus) error {
		if s.Status.Objects[0] == first.Status.Objects[0] {
			return errors.New("the version is the old one")
		}
		return nil
	})

	// Without rights the volume keeps its content, and events and status say why.
	testkit.Must(c.t, c.vault.Policy(c.t.Context(), c.ns, `path "sys/none" { capabilities = ["read"] }`))
	c.awaitEvent("reader", names.RefreshFailed, "keeps its last good content", "permission denied")
	failing := c.awaitStatus(pod, func(s podStatus) error {
		if s.Annotations[names.ReasonAnnotation] == "" || s.Annotations[names.SinceAnnotation] == "" {
			return fmt.Errorf("its annotations are %v", s.Annotations)
		}
		return hasConditions(s, "True", "False", true)
	})
	if failing.Status.Objects[0] != second.Status.Objects[0] || !failing.Status.Mounted {
		c.t.Errorf("the status during the failure is %+v", failing.Status)
	}
	c.checkFile(pod, "two")

	testkit.Must(c.t, c.vault.allowLogin(c.t.Context(), c.ns, nil))
	c.awaitEvent("reader", names.Recovered, "fresh again")
	c.awaitStatus(pod, func(s podStatus) error {
		if len(s.Annotations) > 0 {
			return fmt.Errorf("its annotations are %v", s.Annotations)
		}
		return hasConditions(s, "True", "True", false)
	})
	c.awaitLog("reader", marker+"one\n"+marker+"two\n")

	c.delete("reader")
	c.until("the status to go", func(ctx context.Context) error {
		all, err := c.statuses(ctx, "reader")
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("there is %v", all)
		}
		return err
	})
}

// fsGroupReads checks that the file belongs to the fsGroup and that others cannot read it.
func fsGroupReads(c *tenant) {
	c.put("db", "one")
	mode := 0o440
	private := c.object("password", "db")
	private.FilePermission = &mode
	c.class("db", nil, private)
	script := `id -u; id -G; stat -L -c '%a %u %g' /secrets/password; cat /secrets/password; echo`
	c.start(newPod("member", script, once, user(1000, 2000), mounts("db")))
	c.awaitPod("member", hasSucceeded)
	c.awaitLog("member", "1000\n1000 2000\n440 0 2000\n"+marker+"one\n")

	c.start(newPod("other-group", `cat /secrets/password 2>&1 || echo refused`, once, user(1000, 3000), mounts("db"), withoutGroup))
	c.awaitPod("other-group", hasSucceeded)
	c.awaitLog("other-group", "cat: can't open '/secrets/password': Permission denied\nrefused\n")
}

// ownerReads checks that the file belongs to the user and that the fsGroup cannot read it.
func ownerReads(c *tenant) {
	c.put("db", "one")
	key := c.object("key", "db")
	key.FilePermission, key.UID = new(0o400), new(1000)
	c.class("db", nil, key)
	script := `stat -L -c '%a %u %g' /secrets/key; cat /secrets/key; echo; chmod 0666 /secrets/..data/key 2>/dev/null || echo read-only`
	c.start(newPod("owner", script, once, user(1000, 2000), mounts("db")))
	c.awaitPod("owner", hasSucceeded)
	c.awaitLog("owner", "400 1000 2000\n"+marker+"one\nread-only\n")

	c.start(newPod("member", `cat /secrets/key 2>&1 || echo refused`, once, user(1001, 2000), mounts("db")))
	c.awaitPod("member", hasSucceeded)
	c.awaitLog("member", "cat: can't open '/secrets/key': Permission denied\nrefused\n")
}

func nestedNames(c *tenant) {
	c.put("db", "one")
	c.put("api", "two")
	c.class("db", nil, c.object("db/primary/password", "db"), c.object("db/replica/password", "api"), c.object("plain", "api"))
	script := `cd /secrets && cat db/primary/password && echo && cat db/replica/password && echo && cat plain && echo && ls`
	c.start(newPod("nested", script, once, mounts("db")))
	c.awaitPod("nested", hasSucceeded)
	c.awaitLog("nested", marker+"one\n"+marker+"two\n"+marker+"two\ndb\nplain\n")
}

func twoClasses(c *tenant) {
	c.put("db", "one")
	c.put("api", "two")
	c.class("db", nil, c.object("password", "db"))
	c.class("api", nil, c.object("password", "api"))
	pod := newPod("both", `cat /secrets/password /other/password`, once, mounts("db"), mountsAt("other", "/other", "api"))
	c.start(pod)
	c.awaitPod("both", hasSucceeded)
	c.awaitLog("both", marker+"one"+marker+"two")
}
