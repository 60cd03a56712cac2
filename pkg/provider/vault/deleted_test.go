package vault

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// TestDeletionTime has a secret with delete_version_after: its versions have a
// deletion time from the start.
func TestDeletionTime(t *testing.T) {
	for _, tc := range []struct {
		name, at string
		deleted  bool
	}{
		{"none", "", false},
		{"to come", after(time.Hour).Format(time.RFC3339Nano), false},
		{"now", epoch.Format(time.RFC3339Nano), true},
		{"past", after(-time.Second).Format(time.RFC3339Nano), true},
		{"of another form", "tomorrow", true},
	} {
		body := fmt.Appendf(nil, `{"data":{"current_version":2,"versions":{"2":{"created_time":"c","deletion_time":%q,"destroyed":false}}}}`, tc.at)
		if got := currentVersion(body, epoch); got.Known() == tc.deleted {
			t.Errorf("%s: the current version is %v", tc.name, got)
		}
		read := fmt.Appendf(nil, `{"data":{"data":null,"metadata":{"version":2,"deletion_time":%q}}}`, tc.at)
		if got := deletedVersion(&endpoint.Reply{Body: read}, epoch); (got != "") != (tc.deleted && tc.name != "of another form") {
			t.Errorf("%s: a read is explained with %q", tc.name, got)
		}
	}
}
