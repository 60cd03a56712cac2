package cli

import (
	"context"
	"log/slog"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// A plugin outlives the reader of its log and its audit trail.
func TestClosedStandardOutput(t *testing.T) {
	testkit.WithClosedStdout(t, func() {
		_ = serve(context.Background(), config.Config{}, Streams{}, slog.New(slog.DiscardHandler))
	})
}
