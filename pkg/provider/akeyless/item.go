package akeyless

import (
	"strconv"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// item is one distinct request to the store.
type item struct {
	name    string
	kind    kind // as in the class; otherwise detected
	version int64
	args    arguments
}

// itemOf returns Akeyless' item behind a request of the engine.
func itemOf(r *session.Request) *item { return r.Query.(*item) } //nolint:forcetypeassert // newObject sets it

// id is the same for equal items with equal arguments.
func (i *item) id() string {
	return strings.Join([]string{string(i.kind), i.name, strconv.FormatInt(i.version, 10), i.args.id()}, "\n")
}

// String names the item in errors and logs, without arguments.
func (i *item) String() string {
	s := strconv.Quote(i.name)
	if i.version != 0 {
		s += " version " + strconv.FormatInt(i.version, 10)
	}
	if i.kind != detected {
		s = string(i.kind) + " item " + s
	} else {
		s = "item " + s
	}
	return s
}

// kind is the kind of an item, which decides how it is read.
type kind string

const (
	detected    kind = "" // found out with describe-item
	static      kind = "static"
	rotated     kind = "rotated"
	certificate kind = "certificate"
	dynamic     kind = "dynamic"
	pki         kind = "pki"
)

// issues reports whether every read creates a new credential.
func (k kind) issues() bool { return k == dynamic || k == pki }

// kindOf reads secretType, or describe-item's item_type.
func kindOf(text string) (kind, bool) {
	switch strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(text)) {
	case "":
		return detected, true
	case "static", "static_secret":
		return static, true
	case "rotated", "rotated_secret":
		return rotated, true
	case "certificate":
		return certificate, true
	case "dynamic", "dynamic_secret":
		return dynamic, true
	case "pki", "pki_certificate", "pki_cert_issuer":
		return pki, true
	}
	return "", false
}

// capabilities returns the rights that a read needs. An item whose type the class does not
// have must be described.
func (k kind) capabilities() []string {
	switch k {
	case rotated:
		return []string{"read", "list", "update"}
	case detected:
		return []string{"read", "list"}
	}
	return []string{"read"}
}
