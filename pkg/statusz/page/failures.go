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
	// mostFailures bounds what is remembered, and mostOfNamespace how much of it
	// is one namespace's: nobody's failures hide those of others.
	mostFailures, mostOfNamespace = 128, 16
	// longestFailure is for how long a failure is told that was not repeated.
	// kubelet repeats a failed mount every two minutes at the least.
	longestFailure = time.Hour
)

// Failures remembers the first publishes that failed, since those leave no volume
// behind, and the ends of credentials that were given up. It is an Observer; the
// zero value is ready for use.
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
		return x.volume == o.Volume && (x.kind == o.Kind || o.Kind == volume.Unpublished)
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
	f.add(failure{o.Volume, o.Kind, statusz.Failure{
		At: time.Now(), Namespace: printable.Text(o.Pod.Namespace, mostName), Pod: printable.Text(o.Pod.Name, mostName), PodUID: printable.Text(o.Pod.UID, mostName),
		Class: printable.Text(o.Class.Name, mostName), Reason: string(o.Reason()), Message: printable.Text(o.Err.Error(), mostMessage), Times: times,
	}})
}

// add makes room by what is the oldest of its namespace or, where there are many
// of those, of the namespace with the most.
func (f *Failures) add(x failure) {
	f.list = append(f.list, x)
	of := map[string]int{}
	for _, y := range f.list {
		of[y.Namespace]++
	}
	fullest := x.Namespace
	if of[fullest] <= mostOfNamespace {
		if len(f.list) <= mostFailures {
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

// latest are those that are recent, the latest first.
func (f *Failures) latest(now time.Time) []statusz.Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, func(x failure) bool { return now.Sub(x.At) > longestFailure })
	var out []statusz.Failure
	for _, x := range slices.Backward(f.list) {
		out = append(out, x.Failure)
	}
	return out
}
