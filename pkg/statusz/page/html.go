package page

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/pkg/stores"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

//go:embed statusz.css
var styleText string

// contentPolicy lets a browser use the page's own style and nothing else.
var contentPolicy = "default-src 'none'; style-src 'sha256-" + digest(styleText) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// maxShown bounds the volumes on one page, and maxListed the objects of each.
const maxShown, maxListed = 100, 20

// maxUnfolded is how many objects the page shows without a click.
const maxUnfolded = 2

// view is the page's data.
type view struct {
	statusz.Status
	Now, Uptime    moment
	Memory         string
	Rows           []row
	Namespace      string
	Pod, Class     string
	From, To       int
	Earlier, Later string // addresses of other pages
	Failed         []failureRow
	StoreRows      []storeRow
	QueueRows      []queueRow
	LeavingRows    []leavingRow
}

// moment is a time as text, and its exact form as a tooltip.
type moment struct{ Text, Title string }

// row is one volume's data.
type row struct {
	statusz.Volume
	Mood                                     string // of the state
	Age, Refreshed, Next, Expires, AsOf, Why moment
	Listed                                   []object
	Count, More                              int
	Folded                                   bool
}

type object struct {
	statusz.Object
	Expires moment
}

type failureRow struct {
	statusz.Failure
	When moment
}

type storeRow struct {
	statusz.Store
	Used moment
	Open []circuitRow
}

type circuitRow struct {
	statusz.Circuit
	For   string
	Begun moment
	Probe moment
}

type queueRow struct {
	statusz.Queue
	Next moment
}

type leavingRow struct {
	statusz.Leaving
	Begun, Next moment
}

// heaviest orders the states, those that need attention first.
var heaviest = []volume.State{volume.Emptied, volume.Failing, volume.Publishing, volume.FromMemory, volume.Unpublishing, volume.Fresh}

func (h *handler) html(w *bytes.Buffer, r *http.Request) error {
	values := r.URL.Query()
	q := query{namespace: values.Get("namespace"), pod: values.Get("pod"), class: values.Get("class")}
	from, _ := strconv.Atoi(values.Get("from"))
	now := time.Now()
	all := h.Volumes.Statuses()
	v := &view{Namespace: q.namespace, Pod: q.pod, Class: q.class}
	h.rest(&v.Status, all, now)
	all = slices.DeleteFunc(all, func(s volume.Status) bool { return !q.selects(&s) })
	slices.SortFunc(all, func(a, b volume.Status) int {
		return cmp.Or(cmp.Compare(slices.Index(heaviest, a.State), slices.Index(heaviest, b.State)),
			cmp.Compare(a.Pod.Namespace, b.Pod.Namespace), cmp.Compare(a.Pod.Name, b.Pod.Name), cmp.Compare(a.Class.Name, b.Class.Name), cmp.Compare(a.ID, b.ID))
	})
	v.Total = len(all)
	from = min(max(from, 0), len(all))
	to := min(from+maxShown, len(all))
	v.From, v.To = min(from+1, len(all)), to
	link := func(at int) string {
		values.Set("from", strconv.Itoa(at))
		return "?" + values.Encode()
	}
	if from > 0 {
		v.Earlier = link(max(from-maxShown, 0))
	}
	if to < len(all) {
		v.Later = link(to)
	}
	for i := from; i < to; i++ {
		v.Rows = append(v.Rows, rowOf(volumeOf(&all[i]), now))
	}
	v.times(now)
	_, err := w.WriteString(string(v.html()))
	return err
}

// times converts all times except the volumes'.
func (v *view) times(now time.Time) {
	v.Now, v.Uptime = moment{now.UTC().Format(time.RFC3339), ""}, age(v.Node.Started, now)
	v.Memory = size(v.Node.MemoryUsed)
	if v.Node.MemoryLimit > 0 {
		v.Memory += " of " + size(v.Node.MemoryLimit)
	} else {
		v.Memory += ", no limit"
	}
	for _, f := range v.Failures {
		v.Failed = append(v.Failed, failureRow{f, ago(f.At, now)})
	}
	for _, s := range v.Stores {
		out := storeRow{Store: s, Used: ago(s.UsedAt, now)}
		for _, c := range s.Circuits {
			out.Open = append(out.Open, circuitRow{c, heldUp(c), age(c.Since, now), until(c.ProbeAt, now)})
		}
		v.StoreRows = append(v.StoreRows, out)
	}
	for _, q := range v.Queues {
		v.QueueRows = append(v.QueueRows, queueRow{q, until(q.NextAt, now)})
	}
	for _, l := range v.Leaving {
		v.LeavingRows = append(v.LeavingRows, leavingRow{l, age(l.Since, now), until(l.NextAt, now)})
	}
}

func rowOf(s statusz.Volume, now time.Time) row {
	out := row{
		Volume: s, Mood: mood(s.State), Age: age(s.PublishedAt, now), Refreshed: ago(s.RefreshedAt, now), Next: until(s.NextAt, now),
		Expires: until(s.ExpiresAt, now), AsOf: ago(s.AsOf, now),
	}
	if s.Failure != nil {
		out.Why = ago(s.Failure.At, now)
	}
	for _, o := range s.Objects[:min(len(s.Objects), maxListed)] {
		out.Listed = append(out.Listed, object{o, until(o.ExpiresAt, now)})
	}
	out.Count = len(s.Objects) + s.MoreObjects
	out.More, out.Folded = out.Count-len(out.Listed), out.Count > maxUnfolded
	return out
}

func mood(state string) string {
	switch state {
	case statusz.Fresh:
		return "good"
	case statusz.Failing, statusz.Emptied:
		return "bad"
	}
	return "odd"
}

// heldUp says which requests a circuit blocks.
func heldUp(c statusz.Circuit) string {
	store := ""
	if c.StoreNamespace != "" {
		store = " in the store's namespace " + c.StoreNamespace
	}
	switch stores.Scope(c.Scope) {
	case stores.WholeServer:
		return "everything"
	case stores.StoreNamespace:
		return "everything" + store
	case stores.Tenant:
		return "pods of " + c.Namespace + store
	case stores.FailedPaths:
		if c.Namespace == "" {
			return "paths that failed" + store
		}
		return "paths that failed for " + c.Namespace + store
	}
	return c.Path + " for " + c.Namespace + store
}

// age is the time since t.
func age(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	return moment{duration.HumanDuration(max(0, now.Sub(t))), t.UTC().Format(time.RFC3339)}
}

func ago(t, now time.Time) moment {
	m := age(t, now)
	if m.Text != "" {
		m.Text += " ago"
	}
	return m
}

func until(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	title := t.UTC().Format(time.RFC3339)
	switch left := t.Sub(now); {
	case left > -time.Second && left < time.Second:
		return moment{"now", title}
	case left < 0:
		return moment{duration.HumanDuration(-left) + " ago", title}
	default:
		return moment{"in " + duration.HumanDuration(left), title}
	}
}

func size(bytes int64) string {
	const mi = 1 << 20
	return resource.NewQuantity((bytes+mi-1)/mi*mi, resource.BinarySI).String()
}
