// Package refresh is kubectl mayfly refresh: it refreshes the volumes of a class or a pod now, and
// reports the results.
package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// Annotation is set on a class: any edit refreshes its volumes.
const Annotation = "mayfly.dev/refresh"

const (
	// every is the time between two checks of the results.
	every = 500 * time.Millisecond
	// unseenWait is how long to wait for a new version of a volume whose node does not answer.
	unseenWait = 10 * time.Second
)

// command is a command line.
type command struct {
	cluster.Flags
	output  *output.Flags
	streams output.Streams
	wait    bool
	timeout time.Duration
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{output: o, streams: s}
	cmd := &cobra.Command{
		Use:   "refresh CLASS|pod/NAME",
		Short: "Refresh the volumes of a class or a pod now",
		Long: `Refresh the volumes of a class or a pod now, and report the results.

For a class it sets the annotation ` + Annotation + `, because the
driver refreshes all volumes of an edited class. You need the right to patch the
class. For a pod it calls the driver on the pod's node, by a port-forward to the
driver's pod. It waits until every volume is refreshed. Only the drivers know that,
so it needs a port-forward for a class too. If a refresh fails, the volume keeps its
last good content.`,
		Example: `  # Every pod of a class, after a secret was changed in the store
  kubectl mayfly refresh web-secrets -n shop

  # One pod
  kubectl mayfly refresh pod/web-0 -n shop

  # Without waiting for the results
  kubectl mayfly refresh web-secrets -n shop --wait=false`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	c.Bind(flags)
	flags.BoolVar(&c.wait, "wait", true, "wait until the volumes are refreshed")
	flags.DurationVar(&c.timeout, "timeout", time.Minute, "how long to wait")
	return cmd
}

// work is one refresh.
type work struct {
	*command
	client *cluster.Client
	lister *volumes.Lister
	chosen volumes.Options
	report *finding.Report
	before []volumes.Volume
	// done reports whether a volume was refreshed, and whether that failed.
	done func(before, now *volumes.Volume) (looked, failed bool)
}

// target reads what to refresh.
func target(arg string) (kind, name string, err error) {
	kind, name, given := strings.Cut(arg, "/")
	if !given {
		return "class", arg, nil
	}
	switch strings.ToLower(kind) {
	case "pod", "pods", "po":
		return "pod", name, nil
	case "class", "secretproviderclass", "secretproviderclasses":
		return "class", name, nil
	}
	return "", "", fmt.Errorf("%q: must be the name of a class, class/NAME or pod/NAME", arg)
}

func (c *command) run(ctx context.Context, arg string) error {
	if err := c.output.Check(); err != nil {
		return err
	}
	kind, name, err := target(arg)
	if err != nil {
		return err
	}
	client, err := c.Connect(c.streams)
	if err != nil {
		return err
	}
	w := &work{command: c, client: client, lister: &volumes.Lister{Client: client, Now: c.streams.Time}, report: &finding.Report{}}
	defer w.lister.Close()
	w.chosen = volumes.Options{Namespace: client.Namespace, Live: true}
	if kind == "pod" {
		w.chosen.Pod = name
		err = w.pod(ctx, name)
	} else {
		w.chosen.Class = name
		err = w.class(ctx, name)
	}
	if err != nil {
		_ = c.output.Aside(w.report, c.streams) // the report may say why
		return err
	}
	if len(w.before) == 0 {
		return c.print(nil, w.report)
	}
	return c.print(w.results(ctx), w.report)
}

// list lists the volumes. The results say what is wrong with them; the first list reports what
// could not be read.
func (w *work) list(ctx context.Context, first bool) []volumes.Volume {
	r := &finding.Report{}
	listed := w.lister.List(ctx, w.chosen, r)
	for _, f := range r.Findings {
		if first && (f.Code == finding.CodeNotReadable || f.Code == finding.CodeNodeStateUnknown) {
			w.report.Add(f.Code, f)
		}
	}
	return slices.DeleteFunc(listed.Volumes, func(v volumes.Volume) bool { return v.State == volumes.NotMounted || v.State == statusz.Publishing })
}

func (w *work) nothing(kind, name string) {
	w.report.Add(finding.CodeNothingToDo, finding.Finding{Object: finding.Object{Kind: kind, Namespace: w.client.Namespace, Name: name}, Message: "has no mounted volume"})
}

// class edits a class, which refreshes its volumes.
func (w *work) class(ctx context.Context, name string) error {
	w.before = w.list(ctx, true)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{Annotation: w.streams.Time().UTC().Format(time.RFC3339Nano)}}})
	if err != nil {
		return err
	}
	edited := &v1.SecretProviderClass{}
	err = w.client.Stores().Patch(types.MergePatchType).Namespace(w.client.Namespace).Resource(v1.SecretProviderClassResource).Name(name).Body(patch).Do(ctx).Into(edited)
	switch {
	case apierrors.IsNotFound(err):
		w.before = nil
		w.report.Add(finding.CodeClassAbsent, finding.Finding{
			Object: finding.Object{Kind: "SecretProviderClass", Namespace: w.client.Namespace, Name: name}, Message: "does not exist in this namespace"})
		return nil
	case err != nil:
		return fmt.Errorf("editing class %s/%s: %s", w.client.Namespace, name, cluster.Reason(err))
	}
	if len(w.before) == 0 {
		w.nothing("SecretProviderClass", name)
	}
	w.done = func(before, now *volumes.Volume) (looked, failed bool) {
		if now.Failure != nil {
			failed = before.Failure == nil || now.Failure.At.After(before.Failure.At)
			return failed, failed
		}
		return now.ClassVersion == edited.ResourceVersion && now.RefreshedAt.After(before.RefreshedAt), false
	}
	return nil
}

// pod asks the driver on the pod's node.
func (w *work) pod(ctx context.Context, name string) error {
	w.before = w.list(ctx, true)
	if len(w.before) == 0 {
		w.nothing("Pod", name)
		return nil
	}
	node := w.before[0].Node
	if node == "" {
		pod, err := w.client.CoreV1().Pods(w.client.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("finding the pod's node: %s", cluster.Reason(err))
		}
		node = pod.Spec.NodeName
	}
	if w.lister.Nodes() == nil {
		return errors.New("the driver's pods cannot be found, and only the one on the pod's node can refresh one pod: kubectl mayfly refresh CLASS refreshes all pods of a class, by an edit of the class")
	}
	answer, err := w.lister.Nodes().Refresh(ctx, node, w.client.Namespace, name)
	if err != nil {
		return fmt.Errorf("asking the driver on node %s: %s; kubectl mayfly refresh CLASS refreshes all pods of a class, by an edit of the class", node, cluster.Reason(err))
	}
	asked := answer.Now.Truncate(time.Millisecond)
	w.done = func(_, now *volumes.Volume) (looked, failed bool) {
		failed = now.Failure != nil && !now.Failure.At.Before(asked)
		return failed || !now.RefreshedAt.Before(asked), failed
	}
	return nil
}

// results waits, if requested, and reports the results.
func (w *work) results(ctx context.Context) []result {
	out := make([]result, len(w.before))
	for i := range w.before {
		out[i] = result{Volume: w.before[i], Result: asked}
	}
	w.report.Objects = len(out)
	if !w.wait {
		return out
	}
	fmt.Fprintf(w.streams.Err, "Refreshing %s ...\n", output.Plural(len(out), "volume"))
	deadline, untilUnseen := time.Now().Add(w.timeout), time.Now().Add(min(w.timeout, unseenWait))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		more := w.look(ctx, out, time.Now().After(untilUnseen))
		if !more || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	for i := range out {
		w.checkResult(&out[i])
	}
	return out
}

// look updates the results. It reports whether some are still open.
func (w *work) look(ctx context.Context, out []result, unseenToo bool) (more bool) {
	now := w.list(ctx, false)
	for i := range out {
		r := &out[i]
		if r.Result != asked {
			continue
		}
		before := &w.before[i]
		at := slices.IndexFunc(now, func(v volumes.Volume) bool { return v.Same(before) })
		switch {
		case at < 0:
			r.Result = gone
		case !now[at].Live || !before.Live:
			if moved := changesOf(before.Objects, now[at].Objects); len(moved) > 0 {
				r.take(rotated, before, &now[at])
			} else if unseenToo {
				r.Result = unseen
			}
		default:
			if looked, bad := w.done(before, &now[at]); bad {
				r.take(failed, before, &now[at])
			} else if looked && len(changesOf(before.Objects, now[at].Objects)) > 0 {
				r.take(rotated, before, &now[at])
			} else if looked {
				r.take(unchanged, before, &now[at])
			}
		}
		more = more || r.Result == asked
	}
	return more
}

// checkResult reports what is wrong with a result.
func (w *work) checkResult(r *result) {
	of := "class " + r.Volume.Class + ": "
	switch r.Result {
	case failed:
		why := ""
		if r.Volume.Failure != nil {
			why = r.Volume.Failure.Message
		}
		w.report.Add(finding.CodeRefreshFailed, finding.Finding{Object: r.Volume.Object(), Message: of + "the refresh failed, and the volume keeps its last good content: " + why,
			Remedy: "kubectl mayfly explain pod/" + r.Volume.Pod + " -n " + r.Volume.Namespace})
	case asked:
		r.Result = pending
		w.report.Add(finding.CodeRefreshPending, finding.Finding{Object: r.Volume.Object(), Message: fmt.Sprintf("%sthe volume was not refreshed within %s", of, w.timeout)})
	case unseen:
		w.report.Add(finding.CodeRefreshResultUnknown, finding.Finding{Object: r.Volume.Object(), Message: of + "node " + r.Volume.Node + " does not answer, and the versions in the status have not changed; the driver updates them at most once a minute"})
	}
}
