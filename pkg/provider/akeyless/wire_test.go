package akeyless_test

import (
	"testing"

	"github.com/mayfly-csi/mayfly/test/akeylessd/suite"
)

// TestThroughTheWire runs everything against the double of Akeyless' API.
func TestThroughTheWire(t *testing.T) { suite.Run(t, suite.Options{}) }

// BenchmarkFirstPublish is the cost of first publishes beside the bare work.
func BenchmarkFirstPublish(b *testing.B) { suite.Bench(b) }
