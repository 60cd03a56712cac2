package page

import (
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// maxFailures bounds the list, and maxOfNamespace how many entries one namespace may have in
	// it, so that no namespace's failures displace those of others.
	maxFailures, maxOfNamespace = 128, 16
	// failureAge is how long a failure stays in the list if it is not repeated. kubelet repeats
	// a failed mount at least every two minutes.
	failureAge = time.Hour
)

// Failures records the first publishes that failed, since those leave no volume behind, and the
// credentials whose revocation was given up. It is an Observer; the zero value is ready for use.
type Failures struct {
	mu   sync.Mutex
	list []failure // the oldest first
}

type failure struct {
	volume string
	kind   volume.Kind
	statusz.Failure
}

// Observe implements volume.Observer.
func (f *Failures) Observe(o volume.Outcome) {
	switch o.Kind {
	case volume.Published, volume.Released, volume.Unpublished:
	default:
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(f.list, func(x failure) bool {
		return x.volume == o.ID && (x.kind == o.Kind || o.Kind == volume.Unpublished)
	})
	times := 1
	if at >= 0 {
		if f.list[at].Reason == string(o.Reason()) {
			times += f.list[at].Times
		}
		f.list = slices.Delete(f.list, at, at+1)
	}
	if o.Err == nil || o.Kind == volume.Unpublished {
		return
	}
	f.add(failure{o.ID, o.Kind, statusz.Failure{
		At: time.Now(), Namespace: printable.Text(o.Pod.Namespace, maxName), Pod: printable.Text(o.Pod.Name, maxName), PodUID: printable.Text(o.Pod.UID, maxName),
		Class: printable.Text(o.Class.Name, maxName), Reason: string(o.Reason()), Message: printable.Text(o.Err.Error(), maxMessage), Times: times,
	}})
}

// add makes space by removing the oldest failure of x's namespace or, if the list is full, of the
// namespace with the most.
func (f *Failures) add(x failure) {
	f.list = append(f.list, x)
	of := map[string]int{}
	for _, y := range f.list {
		of[y.Namespace]++
	}
	fullest := x.Namespace
	if of[fullest] <= maxOfNamespace {
		if len(f.list) <= maxFailures {
			return
		}
		for name, n := range of {
			if n > of[fullest] {
				fullest = name
			}
		}
	}
	oldest := slices.IndexFunc(f.list, func(y failure) bool { return y.Namespace == fullest })
	f.list = slices.Delete(f.list, oldest, oldest+1)
}

// latest returns the recent ones, the latest first.
func (f *Failures) latest(now time.Time) []statusz.Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, func(x failure) bool { return now.Sub(x.At) > failureAge })
	var out []statusz.Failure
	for _, x := range slices.Backward(f.list) {
		out = append(out, x.Failure)
	}
	return out
}
