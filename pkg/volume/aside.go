package volume

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// maxAside bounds how many descriptions are kept, the newest, and
	// longestAside for how long.
	maxAside     = 256
	longestAside = 7 * 24 * time.Hour
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
func (s *DirStore) setAside(path string, why error) BadRecord {
	bad := BadRecord{Key: keyOf(path), File: path + corruptSuffix, Err: why}
	s.log.Error("setting a record aside; kubelet's next republish makes a new one", "file", path, "aside", bad.File, "error", why)
	if err := os.Rename(path, bad.File); err != nil {
		s.log.Error("setting a record aside failed", "file", path, "error", err)
		bad.File = path
		return bad
	}
	s.describe(bad.File, why.Error())
	return bad
}

// describe replaces what was set aside by its description. What cannot be
// described is emptied.
func (s *DirStore) describe(file, why string) {
	d := description{SetAside: time.Now().UTC(), Reason: why[:min(len(why), maxDescription/4)]}
	if info, err := os.Stat(file); err == nil {
		d.Bytes, d.Modified = info.Size(), info.ModTime().UTC()
	}
	data, err := json.Marshal(d)
	if err == nil {
		err = replaceFile(file, [][]byte{append(data, '\n')})
	}
	if err != nil {
		s.log.Error("describing a record that was set aside", "file", file, "error", err)
		if err := os.Truncate(file, 0); err != nil {
			s.log.Error("emptying a record that was set aside", "file", file, "error", err)
		}
	}
}

// keepAside looks after what was set aside earlier: descriptions, of which the
// newest are kept for a while, and records as earlier versions set them aside.
func (s *DirStore) keepAside(files []string) []string {
	age := func(file string) time.Duration {
		info, err := os.Stat(file)
		if err != nil {
			return longestAside
		}
		return time.Since(info.ModTime())
	}
	slices.SortStableFunc(files, func(a, b string) int { return cmp.Compare(age(a), age(b)) })
	var kept []string
	for _, file := range files {
		if len(kept) >= maxAside || age(file) >= longestAside {
			_ = os.Remove(file)
			continue
		}
		if !isDescription(file) {
			s.describe(file, "set aside by an earlier version of the driver")
		}
		kept = append(kept, file)
	}
	slices.Sort(kept)
	return kept
}

func isDescription(file string) bool {
	info, err := os.Stat(file)
	if err != nil || info.Size() > maxDescription {
		return false
	}
	data, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var d description
	return len(data) == 0 || dec.Decode(&d) == nil && !d.SetAside.IsZero() && !dec.More()
}
