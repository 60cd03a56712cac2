package endpoint_test

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var start = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

func TestSettings(t *testing.T) {
	var s endpoint.Settings
	testkit.Must(t, s.Complete())
	if s.RequestTimeout != 10*time.Second || s.RetryBase != 250*time.Millisecond || s.DefaultInterval != 2*time.Minute ||
		s.ReleaseTimeout != 5*time.Second || s.MaxResponseBytes != 16<<20 || s.UserAgent != "mayfly" {
		t.Errorf("the defaults are %+v", s)
	}
	if s.Logger == nil || s.Now == nil {
		t.Error("a part is missing")
	}
	if n := s.Jitter(); n < 0 || n >= 1 {
		t.Errorf("chance is %v", n)
	}
	other := endpoint.Settings{RequestTimeout: time.Second, UserAgent: "x"}
	if err := other.Complete(); err != nil || other.RequestTimeout != time.Second || other.UserAgent != "x" {
		t.Errorf("what was set became %+v, %v", other, err)
	}
	for _, bad := range []endpoint.Settings{
		{RequestTimeout: -1}, {RetryBase: -1}, {DefaultInterval: -1}, {ReleaseTimeout: -1}, {MaxResponseBytes: -1},
	} {
		if err := bad.Complete(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
