package statedir

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// maxSetAside bounds how many descriptions are kept, the newest, and
	// longestSetAside for how long.
	maxSetAside     = 256
	longestSetAside = 7 * 24 * time.Hour
	// maxDescription bounds a description in bytes.
	maxDescription = 4 << 10
)

// description is left in place of a record that cannot be read. The record
// itself may hold tokens, and is not kept.
type description struct {
	SetAside time.Time `json:"recordSetAsideAt"`
	Reason   string    `json:"reason"`
	Bytes    int64     `json:"bytes"`
	// Modified is when the record was written.
	Modified time.Time `json:"modified"`
}

// setAside puts a description in the place of a record that cannot be read.
func (s *Store) setAside(name string, why error) volume.BadRecord {
	aside := name + corruptSuffix
	bad := volume.BadRecord{Key: keyOf(name), File: s.dir.path(aside), Err: why}
	s.log.Error("setting a record aside; kubelet's next republish makes a new one", logkey.File, s.dir.path(name), logkey.Aside, bad.File, logkey.Error, why)
	if err := s.dir.rename(name, aside); err != nil {
		s.log.Error("setting a record aside failed", logkey.File, s.dir.path(name), logkey.Error, err)
		bad.File = s.dir.path(name)
		return bad
	}
	s.describe(aside, why.Error())
	return bad
}

// describe replaces what was set aside by its description. What cannot be
// described is emptied.
func (s *Store) describe(name, why string) {
	d := description{SetAside: time.Now().UTC(), Reason: why[:min(len(why), maxDescription/4)]}
	if size, modified, err := s.dir.stat(name); err == nil {
		d.Bytes, d.Modified = size, modified.UTC()
	}
	data, err := json.Marshal(d)
	if err == nil {
		err = s.dir.replace(name, [][]byte{append(data, '\n')})
	}
	if err != nil {
		s.log.Error("describing a record that was set aside", logkey.File, s.dir.path(name), logkey.Error, err)
		if err := s.dir.write(name, nil); err != nil {
			s.log.Error("emptying a record that was set aside", logkey.File, s.dir.path(name), logkey.Error, err)
		}
	}
}

// pruneSetAside looks after what was set aside earlier: descriptions, of which the
// newest are kept for a while, and records as earlier versions set them aside.
func (s *Store) pruneSetAside(names []string) []string {
	age := func(name string) time.Duration {
		_, modified, err := s.dir.stat(name)
		if err != nil {
			return longestSetAside
		}
		return time.Since(modified)
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(age(a), age(b)) })
	var left []string
	for _, name := range names {
		if len(left) >= maxSetAside || age(name) >= longestSetAside {
			_ = s.dir.remove(name)
			continue
		}
		if !s.isDescription(name) {
			s.describe(name, "set aside by an earlier version of the driver")
		}
		left = append(left, name)
	}
	slices.Sort(left)
	return left
}

func (s *Store) isDescription(name string) bool {
	size, _, err := s.dir.stat(name)
	if err != nil || size > maxDescription {
		return false
	}
	data, err := s.dir.read(name)
	if err != nil {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var d description
	return len(data) == 0 || dec.Decode(&d) == nil && !d.SetAside.IsZero() && !dec.More()
}
