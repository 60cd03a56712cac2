package statedir

import (
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
	// maxReason bounds the reason in a description, in bytes.
	maxReason = 1 << 10
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

// setAside replaces a record that cannot be read by its description. If there is no
// room for that, it leaves an empty file.
func (s *Store) setAside(name string, why error) volume.BadRecord {
	aside := name + corruptSuffix
	bad := volume.BadRecord{Key: keyOf(name), File: s.dir.path(aside), Err: why}
	s.log.Error("setting a record aside; kubelet's next republish makes a new one", logkey.File, s.dir.path(name), logkey.Aside, bad.File, logkey.Error, why)
	err := s.describe(name, aside, why.Error())
	if err == nil {
		err = s.dir.remove(name)
	} else {
		s.log.Error("describing a record that was set aside", logkey.File, s.dir.path(name), logkey.Error, err)
		if err := s.dir.write(name, nil); err != nil {
			s.log.Error("emptying a record that was set aside", logkey.File, s.dir.path(name), logkey.Error, err)
		}
		err = s.dir.rename(name, aside)
	}
	if err != nil {
		s.log.Error("setting a record aside failed", logkey.File, s.dir.path(name), logkey.Error, err)
		bad.File = s.dir.path(name)
	}
	return bad
}

// describe writes the description of a record.
func (s *Store) describe(name, aside, why string) error {
	d := description{SetAside: time.Now().UTC(), Reason: why[:min(len(why), maxReason)]}
	if size, modified, err := s.dir.stat(name); err == nil {
		d.Bytes, d.Modified = size, modified.UTC()
	}
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return s.dir.replace(aside, [][]byte{append(data, '\n')})
}

// pruneSetAside removes the descriptions that are old or too many, and returns the
// others.
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
		left = append(left, name)
	}
	slices.Sort(left)
	return left
}
