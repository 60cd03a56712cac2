package vault

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// lastOf9999 is the last second that JSON and X.509 can represent.
const lastOf9999 = 253402300799

// validBefore returns the end of an OpenSSH certificate (PROTOCOL.certkeys); zero if the
// text is not one, or if it has no end.
func validBefore(text string) time.Time {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return time.Time{}
	}
	rest, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return time.Time{}
	}
	kind, rest, ok := wireString(rest)
	// The type, a nonce, the key, a serial number, the certificate's type, a name, the
	// principals, and then the begin and the end of its validity.
	for range 1 + keyFields(string(kind)) {
		if ok {
			_, rest, ok = wireString(rest)
		}
	}
	const serialAndType = 8 + 4
	if !ok || len(rest) < serialAndType || keyFields(string(kind)) == 0 {
		return time.Time{}
	}
	rest = rest[serialAndType:]
	for range 2 {
		if ok {
			_, rest, ok = wireString(rest)
		}
	}
	if !ok || len(rest) < 16 {
		return time.Time{}
	}
	end := binary.BigEndian.Uint64(rest[8:])
	if end == 0 || end == math.MaxUint64 { // it does not expire
		return time.Time{}
	}
	return time.Unix(int64(min(end, lastOf9999)), 0)
}

// keyFields returns the number of the public key's fields in a certificate of a type; 0
// for other types.
func keyFields(kind string) int {
	name, version, _ := strings.Cut(kind, "-cert-v01@")
	switch {
	case version != "openssh.com":
		return 0
	case name == "ssh-ed25519":
		return 1
	case name == "ssh-rsa", strings.HasPrefix(name, "ecdsa-sha2-"), name == "sk-ssh-ed25519":
		return 2
	case strings.HasPrefix(name, "sk-ecdsa-sha2-"):
		return 3
	case name == "ssh-dss":
		return 4
	}
	return 0
}

// wireString removes a string, and its length before it, from the beginning.
func wireString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if b = b[4:]; n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
