package session

import (
	"encoding/json"
	"log/slog"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// State begins what a provider keeps of a volume over a restart. Providers
// embed it in their own.
type State struct {
	// Version changes when an older process could not read what we write.
	Version int `json:"version"`
	// Stamp is when the state was written.
	Stamp clock.Stamp `json:"stamp,omitzero"`
}

func (s State) version() int { return s.Version }

// WriteState writes a volume's state as JSON. It is as secret as the tokens in
// it.
func WriteState(volume string, state interface{ version() int }, log *slog.Logger) secret.Bytes {
	out, err := json.Marshal(state)
	if err != nil { // its parts were decoded from JSON
		log.Error("writing the state of a volume", "volume", volume, "error", err)
		return secret.Bytes{}
	}
	return secret.NewBytes(out)
}

// ReadState reads what WriteState wrote, if it is of the version. No error
// quotes it.
func ReadState(volume string, kept secret.Bytes, version int, state interface{ version() int }) error {
	if json.Unmarshal(kept.Reveal(), state) != nil {
		return fault.New(fault.State, "reading the state of volume %s: it is not the JSON that was written (%d bytes)", volume, kept.Len())
	}
	if got := state.version(); got != version {
		return fault.New(fault.State, "reading the state of volume %s: it has version %d, this is made for %d", volume, got, version)
	}
	return nil
}
