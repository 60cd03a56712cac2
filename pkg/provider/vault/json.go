package vault

import (
	"encoding/json"
	"math"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// maxLease bounds the lifetimes in Vault's answers.
const maxLease = 100 * 365 * 24 * time.Hour

// readMember reads a member that may be missing.
func readMember(body []byte, key string, into any) bool {
	raw := params.Member(body, key)
	return raw == nil || json.Unmarshal(raw, into) == nil
}

func isNull(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

func seconds2duration(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	return time.Duration(min(seconds, maxLease.Seconds()) * float64(time.Second))
}

// secondsIn reads a number of seconds, or a duration as a string.
func secondsIn(data []byte, name string) time.Duration {
	raw := params.Member(data, name)
	var seconds json.Number
	if json.Unmarshal(raw, &seconds) == nil {
		f, _ := seconds.Float64()
		return seconds2duration(f)
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return 0
	}
	d, _ := time.ParseDuration(text)
	return min(max(0, d), maxLease)
}
