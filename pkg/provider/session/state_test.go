package session

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// third is a store whose state has version 3, of which only that is asked.
type third struct{ Store }

func (third) Traits() Traits { return Traits{StateVersion: 3} }

func (third) ReadLogin(raw json.RawMessage) (Login, error) {
	var h host
	return h, json.Unmarshal(raw, &h)
}

// TestState takes a volume's token over a restart, and refuses what Export did not
// write, without quoting it.
func TestState(t *testing.T) {
	var settings endpoint.Settings
	testkit.Must(t, settings.Complete())
	e := New(&settings, nil, third{})
	text := `{"version":3,"pod":{},"own":{"tokens":[{"login":"h","value":"marker","born":"2026-01-01T00:00:00Z","ttl":0,"due":"0001-01-01T00:00:00Z","expires":"0001-01-01T00:00:00Z"}]},"group":{}}`
	testkit.Must(t, e.Import("v", secret.NewBytes([]byte(text))))
	var back volumeState
	if err := json.Unmarshal(e.Export("v").Reveal(), &back); err != nil || back.Version != 3 || len(back.Own.Tokens) != 1 || back.Own.Tokens[0].Value != "marker" {
		t.Errorf("exported %+v, %v", back, err)
	}
	for name, bad := range map[string]string{
		"another version": strings.Replace(text, "3", "4", 1), "no version": strings.Replace(text, `"version":3,`, "", 1), "null": "null",
		"empty": "", "cut off": text[:len(text)-1], "another shape": `["marker"]`, "wrong type": `{"version":"marker"}`,
		"no token": strings.Replace(text, "marker", "", 1), "a token with a line end": strings.Replace(text, "marker", `marker\n`, 1),
	} {
		err := e.Import("other", secret.NewBytes([]byte(bad)))
		if fault.Of(err) != fault.State || strings.Contains(err.Error(), "marker") || !strings.Contains(err.Error(), "volume other") {
			t.Errorf("%s: %s: %v", name, fault.Of(err), err)
		}
		if e.Export("other").Len() != 0 {
			t.Errorf("%s: the volume is known", name)
		}
	}
}
