package audit

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// namespacePerSecond is how many bytes of lines a namespace may have until its
	// refreshes are summarized: 512 KiB a minute, about 500 lines.
	namespacePerSecond = rate.Limit(512<<10) / 60
	namespaceBurst     = 1 << 20
	// summaryTime is the time that one summary covers.
	summaryTime = time.Minute
)

// admit writes the line of an outcome or, if its namespace has used up its budget,
// adds a refresh to a summary. Every refresh is counted. Everything else always has
// a line of its own; above the budget it has no list of objects. The caller holds
// the mutex.
func (l *Log) admit(x *line, o *volume.Outcome) {
	sum := l.summaries[o.ID]
	if o.Kind == volume.Refreshed && sum != nil && x.at.Sub(sum.at) < summaryTime {
		l.sumUp(sum, x, o)
		return
	}
	if sum != nil {
		l.endSummary(o.ID)
	}
	if l.afford(x, o.Pod.Namespace) {
		l.enqueue(x)
		return
	}
	x.shorten(o.Versions)
	if o.Kind != volume.Refreshed {
		l.enqueue(x)
		return
	}
	sum = l.begin(x.at)
	sum.Summary = &summary{Since: x.Time}
	l.sumUp(sum, x, o)
}

// admitAccess writes the line of a login or renewal if the budget of its namespace
// allows that. Above the budget, only the line of the refresh has its id.
func (l *Log) admitAccess(x *line) {
	if l.afford(x, x.Pod.Namespace) {
		l.enqueue(x)
		return
	}
	l.end(x)
}

// afford subtracts the line's bytes from the budget of its namespace, if that is
// large enough.
func (l *Log) afford(x *line, namespace string) bool {
	b := l.budgets[namespace]
	if b == nil {
		b = rate.NewLimiter(namespacePerSecond, namespaceBurst)
		l.budgets[namespace] = b
	}
	return b.AllowN(x.at, x.size())
}

// sumUp adds a refresh to the summary, which has the last refresh, the number of
// refreshes, the versions of the class, and the ids of the requests in the store's
// audit log.
func (l *Log) sumUp(sum, x *line, o *volume.Outcome) {
	x.shorten(o.Versions)
	ids, omitted, begun := sum.CorrelationIDs, sum.IDsOmitted, sum.at
	s, emptied := sum.Summary, sum.Emptied
	s.Refreshes++
	if x.Changed {
		s.Changed++
	}
	if o.Err != nil {
		s.Failed++
	}
	if o.ClassVersion != "" && !slices.Contains(s.ClassVersions, o.ClassVersion) {
		s.ClassVersions = append(s.ClassVersions, o.ClassVersion)
	}
	*sum = *x
	sum.CorrelationIDs, sum.IDsOmitted = ids, omitted
	sum.addIDs(o.Asked)
	sum.Summary, sum.at = s, begun
	sum.Changed, sum.Emptied = s.Changed > 0, emptied || x.Emptied
	l.summaries[o.ID] = sum
}

// endSummary writes a summary. The caller holds the mutex.
func (l *Log) endSummary(id string) {
	l.enqueue(l.summaries[id])
	delete(l.summaries, id)
}

// endSummaries writes the summaries that began before a time.
func (l *Log) endSummaries(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, sum := range l.summaries {
		if !sum.at.After(until) {
			l.endSummary(id)
		}
	}
	for namespace, b := range l.budgets {
		if b.Tokens() >= namespaceBurst {
			delete(l.budgets, namespace)
		}
	}
}
