package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/nodes"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// Options select volumes; an empty field selects all.
type Options struct {
	Namespace, Pod, Class, Node string
	// Live also asks the nodes.
	Live bool
}

func (o Options) selects(v *Volume) bool {
	return (o.Namespace == "" || v.Namespace == o.Namespace) && (o.Pod == "" || v.Pod == o.Pod) &&
		(o.Class == "" || v.Class == o.Class) && (o.Node == "" || v.Node == o.Node)
}

// Lister lists the volumes of a cluster, once or repeatedly. It keeps its connections to the nodes
// open until Close.
type Lister struct {
	Client *cluster.Client
	// Now is the clock.
	Now func() time.Time

	nodes *nodes.Nodes
}

// Close closes the connections.
func (l *Lister) Close() {
	if l.nodes != nil {
		l.nodes.Close()
	}
}

// Nodes are the drivers; nil before the first List that asks them, and if they cannot be found.
func (l *Lister) Nodes() *nodes.Nodes { return l.nodes }

// Listed are the volumes, by namespace, pod and class, and the answers of the nodes without their
// volumes.
type Listed struct {
	Volumes []Volume
	Nodes   []nodes.Answer
}

// key identifies a volume in statuses and in the answers of nodes.
type key struct{ node, target string }

// List collects the volumes. The report has what is wrong with them, and what could not be read.
func (l *Lister) List(ctx context.Context, o Options, r *finding.Report) Listed {
	all, byKey, err := l.statuses(ctx, o)
	if err != nil {
		cluster.NotSeen(r, finding.Object{Kind: "SecretProviderClassPodStatus", Namespace: o.Namespace}, err)
	}
	var answers []nodes.Answer
	take := func(a nodes.Answer) {
		for i := range a.Status.Volumes {
			live := &a.Status.Volumes[i]
			at, known := byKey[key{a.Node, live.Target}]
			if !known {
				at = len(all)
				all = append(all, Volume{})
			}
			all[at].takeLive(a.Node, live)
		}
		a.Status.Volumes, a.Status.Classes, a.Status.Queues = nil, nil, nil // there may be many
		answers = append(answers, a)
	}
	if o.Live {
		l.ask(ctx, o, all, err == nil, r, take)
	}
	slices.SortFunc(answers, func(a, b nodes.Answer) int { return cmp.Compare(a.Node, b.Node) })
	all = slices.DeleteFunc(all, func(v Volume) bool { return !o.selects(&v) })
	slices.SortFunc(all, func(a, b Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Class, b.Class), cmp.Compare(a.target, b.target))
	})
	j := checkAll{report: r, now: l.Now(), options: o}
	j.nodes(answers)
	j.volumes(all, answers)
	j.failures(all, answers)
	r.Objects = len(all)
	return Listed{all, answers}
}

// statuses lists the API server's statuses, page by page.
func (l *Lister) statuses(ctx context.Context, o Options) (all []Volume, byKey map[key]int, err error) {
	byKey = map[key]int{}
	err = cluster.Pages(func(lo metav1.ListOptions) (string, error) {
		lo.LabelSelector = names.DriverLabel + "=" + l.Client.DriverName
		if o.Node != "" && len(o.Node) <= names.MaxLabel {
			lo.LabelSelector += "," + v1.NodeLabel + "=" + o.Node
		}
		page := &v1.SecretProviderClassPodStatusList{}
		err := l.Client.Stores().Get().Namespace(o.Namespace).Resource(v1.SecretProviderClassPodStatusResource).
			VersionedParams(&lo, metav1.ParameterCodec).Do(ctx).Into(page)
		for i := range page.Items {
			v := ofStatus(&page.Items[i])
			if o.selects(&v) {
				byKey[key{v.Node, v.target}] = len(all)
				all = append(all, v)
			}
		}
		return page.Continue, err
	})
	return all, byKey, err
}

// ask asks the nodes of the volumes, or every node if all volumes are wanted or the statuses are
// unknown.
func (l *Lister) ask(ctx context.Context, o Options, all []Volume, known bool, r *finding.Report, take func(nodes.Answer)) {
	if l.nodes == nil {
		found, err := nodes.Find(ctx, l.Client)
		if err != nil {
			r.Add(finding.CodeNodeStateUnknown, finding.Finding{Message: "the driver's pods cannot be found, so " + unknown + " are not known: " + cluster.Reason(err)})
			return
		}
		l.nodes = found
	}
	var wanted []string
	switch {
	case o.Node != "":
		wanted = []string{o.Node}
	case !known || o.Namespace == "" && o.Pod == "" && o.Class == "":
		wanted = l.nodes.Names()
	}
	for i := range all {
		if node := all[i].Node; node != "" {
			wanted = append(wanted, node)
		}
	}
	slices.Sort(wanted)
	l.nodes.Ask(ctx, slices.Compact(wanted), nodes.Query{Namespace: o.Namespace, Pod: o.Pod, Class: o.Class}, take)
}

// unknown are the columns that only a node knows.
const unknown = "refreshes, next refreshes and expiries of credentials"

// checkAll reports what is wrong.
type checkAll struct {
	report  *finding.Report
	now     time.Time
	options Options
}

// nodes reports what is wrong with nodes, and which nodes could not be asked. It makes one finding
// for each reason, since there may be a thousand nodes.
func (j checkAll) nodes(answers []nodes.Answer) {
	silent := map[string][]string{}
	why := map[string]error{}
	for i := range answers {
		a := &answers[i]
		if a.Err == nil {
			j.node(a.Node, &a.Status)
			continue
		}
		reason := cluster.Reason(a.Err)
		if apierrors.IsForbidden(a.Err) { // the text names the pod
			_, reason, _ = strings.Cut(reason, ": ")
			reason = cmp.Or(reason, cluster.Reason(a.Err))
		}
		silent[reason] = append(silent[reason], a.Node)
		why[reason] = a.Err
	}
	for reason, list := range silent {
		f := finding.Finding{Object: finding.Object{Kind: "Node", Name: list[0]}}
		if len(list) == 1 {
			f.Message = fmt.Sprintf("does not answer about its volumes, so %s are unknown: %s", unknown, reason)
		} else {
			f.Object = finding.Object{Kind: "Nodes", Name: enumerate(list)}
			f.Message = fmt.Sprintf("do not answer about their volumes, so %s are unknown: %s", unknown, reason)
		}
		switch err := why[reason]; {
		case errors.Is(err, nodes.ErrNoDriver):
			f.Remedy = "check why no pod of the driver runs there: run kubectl mayfly explain for a pod of the node"
		case errors.Is(err, nodes.ErrOff):
			f.Remedy = "set the chart's status.address"
		case !apierrors.IsForbidden(err):
			f.Remedy = "check whether the driver's pod runs, and whether kubectl port-forward reaches it"
		}
		j.report.Add(finding.CodeNodeStateUnknown, f)
	}
}

func enumerate(list []string) string {
	const most = 3
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// node reports what is wrong with a node's stores and plugins.
func (j checkAll) node(name string, s *statusz.Status) {
	about := finding.Object{Kind: "Node", Name: name}
	for _, store := range s.Stores {
		for _, c := range store.Circuits {
			what := "the " + store.Provider + " at " + store.Address
			switch {
			case c.Scope == "Path", j.options.Namespace != "" && c.Namespace != "" && c.Namespace != j.options.Namespace:
				continue
			case c.Namespace != "":
				what += " for pods of " + c.Namespace
			}
			j.report.Add(finding.CodeCircuitOpen, finding.Finding{Object: about, Message: fmt.Sprintf(
				"sends %s only about one request a second since %s, after %d failures: %s", what, c.Since.UTC().Format(time.RFC3339), c.Failures, c.Message)})
		}
	}
	for _, p := range s.Plugins {
		if !p.Answering {
			j.report.Add(finding.CodePluginNotAnswering, finding.Finding{Object: about, Message: fmt.Sprintf("the provider plugin %q does not answer", p.Name)})
		}
	}
	for _, file := range s.SetAside {
		j.report.Add(finding.CodeRecordUnreadable, finding.Finding{Object: about, Message: "a volume's record could not be read; see " + file})
	}
}

// volumes reports what is wrong with each volume.
func (j checkAll) volumes(all []Volume, answers []nodes.Answer) {
	answered := map[string]bool{}
	for _, a := range answers {
		answered[a.Node] = a.Err == nil
	}
	for i := range all {
		v := &all[i]
		of := "class " + v.Class + ": "
		add := func(code, message string) {
			j.report.Add(code, finding.Finding{Object: v.Object(), Message: of + message, Remedy: v.remedy(code)})
		}
		why := ""
		if v.Failure != nil {
			why = cmp.Or(v.Failure.Message, v.Failure.Reason)
		}
		switch v.State {
		case statusz.Failing:
			add(finding.CodeRefreshFails, "the last refresh failed"+since(v.FailingSince)+": "+why)
		case statusz.Emptied:
			add(finding.CodeEmptied, "the store refused the pod, and the volume is empty: "+why)
		case NotMounted:
			add(finding.CodeNotMounted, "the first mount fails"+since(v.FailingSince)+": "+why)
		case statusz.FromMemory:
			add(finding.CodeFromMemory, "the content is from the node's memory")
		}
		if !v.ExpiresAt.IsZero() && v.ExpiresAt.Before(j.now) {
			add(finding.CodeCredentialExpired, "a credential in the volume expired at "+v.ExpiresAt.UTC().Format(time.RFC3339))
		}
		if !v.Live && v.State != NotMounted && answered[v.Node] {
			add(finding.CodeStatusWithoutVolume, fmt.Sprintf("the status %s says that the volume is mounted on node %s, but the driver there does not have it", v.Status, v.Node))
		}
	}
}

// remedy is the remedy of a code, with the command for the pod.
func (v *Volume) remedy(code string) string {
	return strings.Replace(finding.RuleOf(code).Remedy, "explain the pod", "explain pod/"+v.Pod+" -n "+v.Namespace, 1)
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", since " + t.UTC().Format(time.RFC3339)
}

// failures reports failed first mounts that have no status yet.
func (j checkAll) failures(all []Volume, answers []nodes.Answer) {
	type volume struct{ namespace, pod, class string }
	known := map[volume]bool{}
	for i := range all {
		known[volume{all[i].Namespace, all[i].Pod, all[i].Class}] = true
	}
	for _, a := range answers {
		for _, f := range a.Status.Failures {
			v := Volume{Namespace: f.Namespace, Pod: f.Pod, Class: f.Class, Node: a.Node}
			if !j.options.selects(&v) || known[volume{f.Namespace, f.Pod, f.Class}] {
				continue
			}
			j.report.Add(finding.CodeNotMounted, finding.Finding{Object: v.Object(), Remedy: v.remedy(finding.CodeNotMounted), Message: fmt.Sprintf(
				"class %s: the mount failed on node %s %s, the last time at %s: %s", f.Class, a.Node, times(f.Times), f.At.UTC().Format(time.RFC3339), f.Message)})
		}
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
