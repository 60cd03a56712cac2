package page

import (
	"cmp"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Limits of an answer. Class authors choose names and stores, and the operator of a store its
// texts, so each list and text is bounded.
const (
	maxPath    = 4096 // bytes of a path of the node
	maxName    = 256  // bytes of a name, an id, a path
	maxMessage = 1500 // bytes of a failure
	maxVolumes = 500  // on a page
	maxObjects = 1000 // of a volume
	maxBytes   = 1 << 20
	maxRows    = 200 // of each other list
)

func text(s string) string { return printable.Text(s, maxName) }

// query selects volumes. An empty field selects all.
type query struct {
	namespace, pod, class string
	after                 string // the id that the page before ended with
	limit                 int
}

func (q query) selects(v *volume.Status) bool {
	return (q.namespace == "" || q.namespace == v.Pod.Namespace) && (q.pod == "" || q.pod == v.Pod.Name) && (q.class == "" || q.class == v.Class.Name)
}

// answer builds one page of GET /status.
func (s *Source) answer(q query) statusz.Status {
	now := time.Now()
	out := statusz.Status{APIVersion: statusz.APIVersion, Kind: statusz.Kind, Now: now.UTC(), Volumes: []statusz.Volume{}}
	all := s.Volumes.Statuses()
	if q.after == "" {
		s.rest(&out, all, now)
	}
	all = slices.DeleteFunc(all, func(v volume.Status) bool { return !q.selects(&v) })
	slices.SortFunc(all, func(a, b volume.Status) int { return cmp.Compare(a.ID, b.ID) })
	out.Total = len(all)
	start, _ := slices.BinarySearchFunc(all, q.after, func(v volume.Status, id string) int { return cmp.Compare(v.ID, id) })
	size := 0
	for i := start; i < len(all); i++ {
		if q.after != "" && all[i].ID == q.after {
			continue
		}
		if len(out.Volumes) >= q.limit || size > maxBytes {
			out.Continue = all[i-1].ID
			break
		}
		v := volumeOf(&all[i])
		size += sizeOf(&v)
		out.Volumes = append(out.Volumes, v)
	}
	return out
}

// rest sets all fields except the volumes.
func (s *Source) rest(out *statusz.Status, all []volume.Status, now time.Time) {
	node := s.Node()
	out.Node = &node
	out.Failures = s.Failures.latest(now)
	o := s.Volumes.Overview()
	out.Queues, out.Classes = queuesOf(o.Queues), classesOf(all)
	out.Leaving, out.Leavings = leavingsOf(o.Revocations), len(o.Revocations)
	slices.Sort(o.SetAside)
	out.SetAside = bounded(o.SetAside)
	out.Stores, out.Plugins = s.Stores(), s.Plugins()
	room := maxRows
	for i := range out.Stores { // a hostile class may have each server open many
		st := &out.Stores[i]
		st.Circuits = st.Circuits[:min(len(st.Circuits), room)]
		room -= len(st.Circuits)
	}
}

func bounded[T any](list []T) []T { return list[:min(len(list), maxRows)] }

func volumeOf(v *volume.Status) statusz.Volume {
	out := statusz.Volume{
		ID: text(v.ID), State: string(v.State), Target: printable.Text(v.Target, maxPath), Namespace: text(v.Pod.Namespace), Pod: text(v.Pod.Name), PodUID: text(v.Pod.UID),
		ServiceAccount: text(v.Pod.ServiceAccount), Class: text(v.Class.Name), ClassVersion: text(v.ClassVersion),
		Provider: text(v.Provider), Store: text(v.Store), AnsweredBy: text(v.AnsweredBy),
		PublishedAt: utc(cmp.Or(v.PublishedAt, v.Since)), RefreshedAt: utc(v.RefreshedAt), AsOf: utc(v.AsOf),
		NextAt: utc(v.NextAt), Refreshing: v.Running && v.State != volume.Publishing, Failures: v.Failures,
	}
	ends := map[string]time.Time{}
	for i, end := range v.Ends {
		if out.ExpiresAt.IsZero() || end.Before(out.ExpiresAt) {
			out.ExpiresAt = utc(end)
		}
		if i < len(v.EndsOf) {
			ends[v.EndsOf[i]] = utc(end)
		}
	}
	for _, o := range v.Versions[:min(len(v.Versions), maxObjects)] {
		out.Objects = append(out.Objects, statusz.Object{ID: text(o.ID), Version: text(o.Version), ExpiresAt: ends[o.ID]})
	}
	out.MoreObjects = len(v.Versions) - len(out.Objects)
	if v.Failures > 0 {
		out.Failure = &statusz.Failure{At: utc(v.FailedAt), Reason: string(v.LastReason), Message: printable.Text(v.LastFailure, maxMessage)}
	}
	return out
}

// sizeOf estimates how many bytes a volume takes in JSON.
func sizeOf(v *statusz.Volume) int {
	n := 700 + len(v.Store)
	for _, o := range v.Objects {
		n += 80 + len(o.ID) + len(o.Version)
	}
	if v.Failure != nil {
		n += len(v.Failure.Message)
	}
	return n
}

// utc returns the moment in UTC, to the millisecond, without a monotonic clock.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Millisecond)
}

func queuesOf(list []schedule.Queue) []statusz.Queue {
	slices.SortFunc(list, func(a, b schedule.Queue) int {
		return cmp.Or(cmp.Compare(b.Overdue, a.Overdue), cmp.Compare(a.Store, b.Store))
	})
	var out []statusz.Queue
	for _, q := range bounded(list) {
		out = append(out, statusz.Queue{
			Store: text(q.Store), Namespaces: q.Namespaces, Waiting: q.Waiting, Overdue: q.Overdue, Running: q.Running, Late: q.Late, NextAt: utc(q.NextAt),
		})
	}
	return out
}

func leavingsOf(list []volume.Revocation) []statusz.Leaving {
	slices.SortFunc(list, func(a, b volume.Revocation) int {
		return cmp.Or(cmp.Compare(b.Tries, a.Tries), cmp.Compare(a.ID, b.ID))
	})
	var out []statusz.Leaving
	for _, l := range bounded(list) {
		out = append(out, statusz.Leaving{
			ID: text(l.ID), Namespace: text(l.Pod.Namespace), Pod: text(l.Pod.Name), Class: text(l.Class.Name), Providers: []string{text(l.Provider)},
			Tries: l.Tries, MaxTries: l.Most, Since: utc(l.Since), NextAt: utc(l.NextAt),
		})
	}
	return out
}

// classesOf counts the volumes of each class, classes with failing volumes first.
func classesOf(all []volume.Status) []statusz.Class {
	const maxVersions = 5
	by := map[string]*statusz.Class{}
	for i := range all {
		v := &all[i]
		c := by[v.Class.String()]
		if c == nil {
			c = &statusz.Class{Namespace: text(v.Class.Namespace), Name: text(v.Class.Name)}
			by[v.Class.String()] = c
		}
		c.Volumes++
		if v.Failures > 0 {
			c.Failing++
		}
		if v.Provider != "" {
			c.Provider = text(v.Provider)
		}
		if version := text(v.ClassVersion); version != "" && len(c.Versions) < maxVersions && !slices.Contains(c.Versions, version) {
			c.Versions = append(c.Versions, version)
		}
	}
	out := make([]statusz.Class, 0, len(by))
	for _, c := range by {
		slices.Sort(c.Versions)
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b statusz.Class) int {
		return cmp.Or(cmp.Compare(b.Failing, a.Failing), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return bounded(out)
}
