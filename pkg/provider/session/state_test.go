package session_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

type state struct {
	session.State
	Token string `json:"token"`
	Bad   any    `json:"bad,omitempty"`
}

func TestState(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	out := session.WriteState("v", state{State: session.State{Version: 3}, Token: "marker"}, logger)
	if want := `{"version":3,"token":"marker"}`; string(out.Reveal()) != want {
		t.Errorf("wrote %s, want %s", out.Reveal(), want)
	}
	var back state
	if err := session.ReadState("v", out, 3, &back); err != nil || back.Token != "marker" {
		t.Errorf("read %+v, %v", back, err)
	}
	for name, text := range map[string]string{
		"another version": `{"version":4,"token":"marker"}`, "no version": `{"token":"marker"}`, "null": "null",
		"empty": "", "cut off": `{"version":3,"token":"marker`, "another shape": `["marker"]`, "wrong type": `{"version":"marker"}`,
	} {
		err := session.ReadState("v", secret.NewBytes([]byte(text)), 3, new(state))
		if fault.Of(err) != fault.State || strings.Contains(err.Error(), "marker") || !strings.Contains(err.Error(), "volume v") {
			t.Errorf("%s: %s: %v", name, fault.Of(err), err)
		}
	}
	if out := session.WriteState("v", state{Token: "marker", Bad: func() {}}, logger); out.Len() != 0 {
		t.Errorf("wrote what is no JSON: %s", out.Reveal())
	}
	if text := log.String(); !strings.Contains(text, "level=ERROR") || strings.Contains(text, "marker") {
		t.Errorf("logged %q", text)
	}
}
