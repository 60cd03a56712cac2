// Package chain numbers the lines of an audit trail and writes into each the hash of
// the previous one, so that a changed, removed, added or moved line shows.
//
// A link is the last member of a line's JSON object:
//
//	"chain":{"id":"6f1c…","seq":12,"prev":"9b74…"}
//
// prev is the SHA-256 of the previous line, byte for byte and without its end. The
// chain needs no key: a reader who has the hash or a copy of a later line notices a
// change. A reader who has only the file does not notice if all of it was rewritten.
package chain

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Link is the position of a line in its chain.
type Link struct {
	ID string `json:"id"`
	// Seq counts from 1 within the chain.
	Seq uint64 `json:"seq"`
	// Prev is the hash of the previous line; empty if that is unknown. In the first
	// line of a chain it is the hash of the last line of the file, which belongs to
	// another chain.
	Prev string `json:"prev,omitempty"`
}

// Time returns a time as all lines have it: in UTC as RFC 3339, with milliseconds, so that it has
// the same width in each. time.Format takes several times as long for such a format.
func Time(t time.Time) string {
	text := t.UTC().AppendFormat(make([]byte, 0, len("2006-01-02T15:04:05.000Z")), time.RFC3339)
	ms := t.Nanosecond() / 1e6
	return string(append(text[:len(text)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z'))
}

// Head is the end of a chain.
type Head struct {
	ID string `json:"id"`
	// Seq is 0 if no line of the chain is written.
	Seq uint64 `json:"seq"`
	// Hash is the hash that the next line gets, of the last line.
	Hash string `json:"hash,omitempty"`
	// Before and BeforeSeq are the hash and the number of the line before those that
	// were written together with the last.
	Before    string `json:"before,omitempty"`
	BeforeSeq uint64 `json:"beforeSeq,omitempty"`
}

// Begin returns the head of a new chain. last is the last existing line, without
// its end; nil for none.
func Begin(last []byte) Head {
	h := Head{ID: newID()}
	if len(last) > 0 {
		h.Hash = hash(last)
	}
	return h
}

// After returns the head for the next line, if the last line of the file is known:
// that of the line before, if the lines of h were never written.
func (h Head) After(last []byte) Head {
	if len(last) > 0 && hash(last) == h.Before {
		return Head{ID: h.ID, Seq: h.BeforeSeq, Hash: h.Before}
	}
	return h
}

// Add appends a line, a JSON object with its end, to text, together with its link,
// and returns the new head.
func (h Head) Add(text, line []byte) ([]byte, Head) {
	body := bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("}"))
	begin := len(text)
	text = append(text, body...)
	text = append(text, `,"chain":{"id":"`...)
	text = append(text, h.ID...)
	text = append(text, `","seq":`...)
	text = strconv.AppendUint(text, h.Seq+1, 10)
	if h.Hash != "" {
		text = append(text, `,"prev":"`...)
		text = append(text, h.Hash...)
		text = append(text, '"')
	}
	text = append(text, "}}"...)
	next := Head{ID: h.ID, Seq: h.Seq + 1, Hash: hash(text[begin:])}
	return append(text, '\n'), next
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return string(hex.AppendEncode(make([]byte, 0, 2*sha256.Size), sum[:]))
}

// Encode returns the head as text of a fixed length, so that a later head
// overwrites it in one write.
func (h Head) Encode() []byte {
	text := fmt.Appendf(make([]byte, 0, headSize), `{"id":%q,"seq":%d,"hash":%q,"before":%q,"beforeSeq":%d}`, h.ID, h.Seq, h.Hash, h.Before, h.BeforeSeq)
	for len(text) < headSize-1 {
		text = append(text, ' ')
	}
	return append(text, '\n')
}

// headSize is the length of two hashes, an id and two of the largest numbers.
const headSize = 256

// DecodeHead reads the result of Encode.
func DecodeHead(text []byte) (Head, error) {
	var h Head
	if len(text) > headSize {
		return h, errors.New("it is too long")
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return Head{}, fmt.Errorf("it is no head of a chain: %w", err)
	}
	if !isID(h.ID) || h.Seq > 0 && !isHash(h.Hash) || h.Before != "" && !isHash(h.Before) {
		return Head{}, errors.New("it is no head of a chain: its fields make no sense")
	}
	return h, nil
}

func isHash(text string) bool { return isHex(text, 2*sha256.Size) }
func isID(text string) bool   { return isHex(text, 2*idSize) }

func isHex(text string, size int) bool {
	if len(text) != size {
		return false
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// idSize is the size of a chain's id in bytes: no two nodes or restarts have the
// same id.
const idSize = 8

func newID() string {
	id := make([]byte, idSize)
	_, _ = rand.Read(id) // it never fails
	return hex.EncodeToString(id)
}
