package statedir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// recordVersion is the version of the format below. Load sets a file of another
// version aside.
const recordVersion = 1

// header is the first line of a record's file. After it come the record's JSON and
// the provider's state, which the checksum covers.
type header struct {
	Version  int    `json:"version"`
	Checksum string `json:"sha256"`
	// Record is the size of the record's JSON in bytes.
	Record int `json:"record"`
}

// wire is the JSON of a Record. Its tokens and secrets are in plain text: the file is
// in a tmpfs that only root can read.
type wire struct {
	*volume.Record
	Tokens    identity.Plain    `json:"tokens,omitempty"`
	Secrets   map[string]string `json:"secrets,omitempty"`
	ClassFile string            `json:"classFile,omitempty"`
}

// encodeRecord returns the parts of the file, in order. One of them uses the buffer.
// The file contains the name of the class's file instead of the class.
func encodeRecord(r *volume.Record, classFile string, buffer *bytes.Buffer) ([][]byte, error) {
	w := wire{Record: r, Tokens: r.Tokens.Reveal(), ClassFile: classFile}
	if len(r.Secrets) > 0 {
		w.Secrets = make(map[string]string, len(r.Secrets))
		for k, v := range r.Secrets {
			w.Secrets[k] = v.Reveal()
		}
	}
	if err := json.NewEncoder(buffer).Encode(w); err != nil {
		return nil, fault.New(fault.State, "encoding the record of volume %s: %w", r.ID, err)
	}
	body, state := buffer.Bytes(), r.ProviderState.Reveal()
	sum := sha256.New()
	sum.Write(body)
	sum.Write(state)
	line, err := json.Marshal(header{recordVersion, hex.EncodeToString(sum.Sum(nil)), len(body)})
	if err != nil {
		return nil, fault.New(fault.State, "encoding the record of volume %s: %w", r.ID, err)
	}
	return [][]byte{append(line, '\n'), body, state}, nil
}

// errCorrupt is in the error of each file that Load cannot use.
var errCorrupt = errors.New("corrupt record")

// decodeRecord returns the record without its class, and the name of the class's file.
// Its errors quote nothing of the record's file, which may contain tokens.
func decodeRecord(data []byte) (_ *volume.Record, classFile string, err error) {
	w, state, err := decodeWire(data)
	if err != nil {
		return nil, "", err
	}
	r := w.Record
	if r.Tokens, err = w.Tokens.Tokens(); err != nil || r.ID == "" || r.Target == "" {
		return nil, "", fmt.Errorf("%w: a field is missing or malformed", errCorrupt)
	}
	if len(w.Secrets) > 0 {
		r.Secrets = make(map[string]secret.String, len(w.Secrets))
		for k, v := range w.Secrets {
			r.Secrets[k] = secret.NewString(v)
		}
	}
	if len(state) > 0 {
		r.ProviderState = secret.NewBytes(state)
	}
	return r, w.ClassFile, nil
}

func decodeWire(data []byte) (w *wire, state []byte, err error) {
	line, body, _ := bytes.Cut(data, []byte("\n"))
	var h header
	if json.Unmarshal(line, &h) != nil {
		return nil, nil, fmt.Errorf("%w: not a record file", errCorrupt)
	}
	if h.Version != recordVersion {
		return nil, nil, fmt.Errorf("%w: its version is %d, this driver reads %d", errCorrupt, h.Version, recordVersion)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != h.Checksum || h.Record < 0 || h.Record > len(body) {
		return nil, nil, fmt.Errorf("%w: the checksum does not match", errCorrupt)
	}
	w = &wire{Record: &volume.Record{}}
	if json.Unmarshal(body[:h.Record], w) != nil {
		return nil, nil, fmt.Errorf("%w: a field has the wrong type", errCorrupt)
	}
	return w, body[h.Record:], nil
}
