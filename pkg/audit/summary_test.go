package audit

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// A tenant whose volumes change a thousand objects each second neither fills
// the disk nor hides a refresh, and another namespace's lines stay whole.
func TestFloodIsSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		stop := x.run(t)
		const volumes, seconds = 5, 150
		for s := range seconds {
			var versions []provider.Version
			for i := range 1000 {
				versions = append(versions, provider.Version{ID: fmt.Sprintf("%04d%s", i, strings.Repeat("n", 400)), Version: fmt.Sprint(s)})
			}
			for v := range volumes {
				o := web(volume.Refreshed, nil)
				o.ID, o.Pod.Namespace, o.Changed, o.Versions = fmt.Sprint("csi-", v), "evil", true, versions
				o.ClassVersion, o.Asked = fmt.Sprint(s/10), []string{fmt.Sprintf("id-%d-%d", v, s)}
				x.Observe(o)
			}
			time.Sleep(time.Second)
		}
		good := web(volume.Refreshed, nil)
		good.Changed, good.Versions = true, []provider.Version{{ID: "a", Version: "1"}}
		x.Observe(good)
		stop()
		refreshes, ids, good1 := 0, map[string]bool{}, 0
		for _, l := range x.out.lines(t) {
			for _, id := range l.CorrelationIDs {
				ids[id] = true
			}
			switch {
			case l.Pod.Namespace == "shop":
				if good1++; len(l.Objects) != 1 || l.Summary != nil {
					t.Errorf("the other namespace's line is %+v", l)
				}
				continue
			case l.Summary == nil:
				refreshes++
			default:
				refreshes += l.Summary.Refreshes
				if len(l.Summary.ClassVersions) < l.Summary.Refreshes/10 || l.Summary.Changed != l.Summary.Refreshes {
					t.Errorf("the summary is %+v", l.Summary)
				}
			}
			if l.ObjectsOmitted == 0 || len(l.Objects)+l.ObjectsOmitted != 1000 || l.ObjectsDigest == "" || l.Lost != 0 {
				t.Fatalf("%d objects, %d omitted", len(l.Objects), l.ObjectsOmitted)
			}
		}
		if refreshes != volumes*seconds || len(ids) != volumes*seconds || good1 != 1 {
			t.Errorf("%d refreshes with %d ids are told, want %d", refreshes, len(ids), volumes*seconds)
		}
		if most := namespaceBurst + 3*(600<<10); x.out.b.Len() > most {
			t.Errorf("%d bytes in 150 s, want at most %d", x.out.b.Len(), most)
		}
	})
}

// A summary comes before what happens to its volume next, and at the stop.
func TestSummaryComesBeforeTheUnpublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, All)
		for range 5000 {
			x.Observe(web(volume.Refreshed, nil))
			if len(x.summaries) > 0 {
				break
			}
		}
		x.Observe(web(volume.Refreshed, nil))
		x.Observe(web(volume.Unpublished, nil))
		x.run(t)()
		lines := x.out.lines(t)
		n := len(lines)
		if s := lines[n-2].Summary; s == nil || s.Refreshes != 2 || lines[n-1].Event != "unpublish" {
			t.Errorf("the last lines are %+v and %+v", lines[n-2], lines[n-1])
		}
	})
}

func TestLongErrorsAreClipped(t *testing.T) {
	var x line
	x.result(errors.New(strings.Repeat("ü", 5000)))
	if got := x.Error; len(got) > maxErrorBytes+3 || strings.ContainsRune(got, '\ufffd') {
		t.Errorf("%d bytes", len(got))
	}
}
