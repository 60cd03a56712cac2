package suite

import (
	"slices"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

const tried = `
- {secretPath: /app/a, fileName: a, secretType: static}
- {secretPath: /app/db, fileName: db, secretType: dynamic, secretKey: user}
- {secretPath: /app/none, fileName: none, secretType: static}
- {secretPath: /app/perhaps, fileName: perhaps, secretType: static, optional: true}
- {secretPath: /other/c, fileName: c}`

// trial tries a class without a volume: it reads nothing, unless that is requested, and then
// revokes what it made.
func trial(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "marker-a-41")
	w.PutDynamic("/app/db", time.Hour)
	w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/third/"})
	r := w.request(w.pod("web"), k8s(tried))
	got, err := w.provider.Try(t.Context(), r, false)
	if err != nil || got.Refused != nil || len(got.Objects) != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
	a, db, none, perhaps, c := got.Objects[0], got.Objects[1], got.Objects[2], got.Objects[3], got.Objects[4]
	switch {
	case a.There != session.IsThere || len(a.Missing) > 0 || a.Read, db.There != session.IsThere || len(db.Missing) > 0, none.There != session.NotThere, perhaps.There != session.NotThere || !perhaps.Optional:
		t.Errorf("%+v", got.Objects)
	case !slices.Equal(c.Missing, []string{"read"}):
		t.Errorf("what is not allowed: %+v", c)
	}
	if counts := w.Counts(); counts["/get-secret-value"]+counts["/get-dynamic-secret-value"] > 0 {
		t.Errorf("it read: %v", counts)
	}
	few := w.request(w.pod("web"), k8s("- {secretPath: /app/a, fileName: a, secretType: static}\n- {secretPath: /app/db, fileName: db, secretType: dynamic, secretKey: user}"))
	if got, err = w.provider.Try(t.Context(), few, true); err != nil || !got.Objects[0].Read || got.Objects[0].Size != len("marker-a-41") || !got.Objects[1].Read {
		t.Errorf("read: %+v, %v", got, err)
	}
	if counts := w.Counts(); counts["/get-dynamic-secret-value"] != 1 || counts["/dynamic-secret-tmp-creds-delete"] != 1 {
		t.Errorf("made and ended: %v", counts)
	}
	denied := w.request(w.pod("web"), with(k8s(tried), "akeylessAccessID", "p-none"))
	if got, err = w.provider.Try(t.Context(), denied, false); err != nil || fault.Of(got.Refused) != fault.Denied {
		t.Errorf("a login that is refused: %+v, %v", got, err)
	}
	token := postJSON(t, w.URL()+"/auth", map[string]any{"access-type": "access_key", "access-id": keyID, "access-key": accessKey})["token"]
	page := postJSON(t, w.URL()+"/list-roles", map[string]any{"token": token})
	if roles, _ := page["roles"].([]any); len(roles) != 2 || page["next_page"] != "2" {
		t.Errorf("roles: %v", page)
	}
}
