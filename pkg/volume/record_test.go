package volume

import (
	"reflect"
	"testing"
	"time"
)

// A moment that is added and not mapped would stay behind when the clock is set.
// AsOf alone stays as the wall clock had it: nothing waits for it.
func TestEveryMomentIsMapped(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &Progress{PublishedAt: at, RefreshedAt: at, DueAt: at, EndsDueAt: at, Ends: []time.Time{at}, FailedAt: at}
	ends := r.Ends
	r.MapMoments(func(t time.Time) time.Time { return t.Add(time.Hour) })
	moments := 0
	for i, v := 0, reflect.ValueOf(*r); i < v.NumField(); i++ {
		if v.Type().Field(i).Name == "AsOf" {
			continue
		}
		switch m := v.Field(i).Interface().(type) {
		case time.Time:
			if moments++; !m.Equal(at.Add(time.Hour)) {
				t.Errorf("%s is %s", v.Type().Field(i).Name, m)
			}
		case []time.Time:
			if moments++; !m[0].Equal(at.Add(time.Hour)) {
				t.Errorf("%s is %s", v.Type().Field(i).Name, m)
			}
		}
	}
	if moments != 6 || !ends[0].Equal(at) {
		t.Errorf("%d moments, and those of a copy are %s", moments, ends)
	}
}
