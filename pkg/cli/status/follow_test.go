package status

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// await waits until a command has printed a text.
func await(t *testing.T, out *testkit.Log, want string) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%q is printed", want), func() bool { return strings.Contains(out.String(), want) })
}

const oneNode = `apiVersion: v1
kind: Pod
metadata: {name: mayfly-a, namespace: mayfly, labels: {app.kubernetes.io/name: mayfly}}
spec: {nodeName: node-a}
status: {phase: Running}
`

func TestFollow(t *testing.T) {
	api := clitest.New(t, oneNode)
	path := testkit.Value(api.Kubeconfig(t.TempDir()))(t)
	drive := func(list ...statusz.Volume) { api.Drive("mayfly/mayfly-a", statusz.Status{Volumes: list}) }
	v := statusz.Volume{ID: "csi-1", Target: "/a", Namespace: "shop", Pod: "web-0", Class: "db", State: statusz.Fresh, Objects: []statusz.Object{{ID: "password", Version: "1"}}}
	drive(v)
	out, errs := &testkit.Log{}, &testkit.Log{}
	c := &command{output: &output.Flags{Format: output.Text, FailOn: "error", Color: "never"}, streams: output.Streams{Out: out, Err: errs, Version: "test"}, interval: 10 * time.Millisecond}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c.Bind(set)
	testkit.Must(t, set.Parse([]string{"--kubeconfig=" + path, "--driver-namespace=mayfly"}))
	client := testkit.Value(c.Connect(c.streams))(t)
	c.options.Live = true
	l := &volumes.Lister{Client: client, Now: c.streams.Time}
	defer l.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.follow(ctx, l) }()
	await(t, out, "password=1")
	v.Objects = []statusz.Object{{ID: "password", Version: "2"}}
	drive(v)
	await(t, out, "password=2")
	v.State, v.Failure = statusz.Failing, &statusz.Failure{Reason: "Denied", Message: "permission denied"}
	drive(v)
	await(t, errs, "MF600")
	drive()
	await(t, out, "Gone")
	stop()
	testkit.Must(t, <-done)
	if n := strings.Count(out.String(), "POD "); n != 1 {
		t.Errorf("the head is printed %d times:\n%s", n, out)
	}
	if n := strings.Count(errs.String(), "MF600"); n != 1 {
		t.Errorf("a finding is printed %d times:\n%s", n, errs)
	}
}

func TestChanges(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	v := func(pod, version string) volumes.Volume {
		return volumes.Volume{Namespace: "shop", Pod: pod, Class: "db", State: statusz.Fresh, RefreshedAt: now, NextAt: now, Objects: []statusz.Object{{ID: "a", Version: version}}}
	}
	names := func(list []volumes.Volume) (out string) {
		for _, v := range list {
			out += v.Pod + " " + v.State + " " + v.Objects[0].Version + ";"
		}
		return out
	}
	first, before := changes(nil, []volumes.Volume{v("web-0", "1"), v("web-1", "1")})
	testkit.Equal(t, "changes from none", names(first), "web-0 Fresh 1;web-1 Fresh 1;")
	same := v("web-0", "1")
	same.NextAt, same.Refreshing = now.Add(time.Minute), true
	none, before := changes(before, []volumes.Volume{same, v("web-1", "1")})
	if len(none) != 0 {
		t.Errorf("a later NextAt counts as a change: %s", names(none))
	}
	second, _ := changes(before, []volumes.Volume{v("web-1", "2"), v("web-2", "1")})
	testkit.Equal(t, "changes", names(second), "web-1 Fresh 2;web-2 Fresh 1;web-0 Gone 1;")
}
