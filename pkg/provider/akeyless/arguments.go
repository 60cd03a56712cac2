package akeyless

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// arguments are secretArgs, by their names in Akeyless' API. The kind of the item decides
// which are valid.
type arguments map[string]string

// The arguments of a PKI certificate. keyType is Mayfly's own: the node creates the
// private key, which never leaves it.
const (
	argCommonName = "common-name"
	argAltNames   = "alt-names"
	argURISANs    = "uri-sans"
	argTTL        = "ttl"
	argKeyUsage   = "extended-key-usage"
	argCSR        = "csr-data-base64"
	argKeyType    = "key-type"
)

// The arguments of the other kinds that are fields of the request. All other arguments of
// a dynamic secret are for its producer.
const (
	argHost    = "host"
	argTarget  = "target"
	argTimeout = "timeout"
)

func argumentNames(k kind) []string {
	switch k {
	case pki:
		return []string{argCommonName, argAltNames, argURISANs, argTTL, argKeyUsage, argCSR, argKeyType}
	case dynamic:
		return []string{argHost, argTarget, argTimeout}
	case rotated:
		return []string{argHost}
	}
	return nil
}

// newArguments reads secretArgs. Names are those of the API or in camel case, lists are
// YAML lists or have commas.
func newArguments(f params.Field, k kind) arguments {
	if k == detected {
		f.Invalid("needs a secretType, because what the arguments mean depends on it")
		return nil
	}
	known := argumentNames(k)
	out := arguments{}
	raw := f.Map()
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		i := slices.IndexFunc(known, func(n string) bool { return plainName(n) == plainName(name) })
		text, err := argumentText(raw[name])
		switch {
		case err != nil:
			f.Invalid(fmt.Sprintf("%s: %s", params.Clip(name), err))
		case i >= 0:
			out[known[i]] = text
		case k == dynamic && name != "" && !strings.Contains(name, "="):
			out[name] = text
		default:
			f.Invalid(fmt.Sprintf("a %s item takes no argument %q%s", k, params.Clip(name), class.DidYouMean(name, known)))
		}
	}
	if text := out[argTimeout]; k == dynamic && text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 300 {
			f.Invalid("timeout: must be a number of seconds from 1 to 300")
		}
	}
	return out.checked(f, k)
}

func (a arguments) checked(f params.Field, k kind) arguments {
	if k != pki {
		return a
	}
	if a[argKeyType] != "" {
		if _, ok := keyMakers()[a[argKeyType]]; !ok {
			f.Invalid(fmt.Sprintf("keyType: must be one of %s", strings.Join(slices.Sorted(maps.Keys(keyMakers())), ", ")))
		}
		if a[argCSR] != "" {
			f.Invalid("keyType and csrDataBase64 do not go together: a request of your own has a key of its own")
		}
	}
	return a
}

// argumentText returns a value as it is written in a request.
func argumentText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case json.Number:
		return v.String(), nil
	case []any:
		var parts []string
		for _, item := range v {
			text, isText := item.(string)
			if !isText {
				return "", fmt.Errorf("must be a list of texts")
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, ","), nil
	}
	text, err := params.JSON(v)
	return string(text), err
}

func plainName(name string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
}

// id is the same for equal arguments.
func (a arguments) id() string {
	if len(a) == 0 {
		return ""
	}
	text, err := json.Marshal(a) // sorted by name
	if err != nil {
		return ""
	}
	return string(text)
}

// producers returns the arguments for a dynamic secret's producer.
func (a arguments) producers() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if !slices.Contains(argumentNames(dynamic), name) {
			list = append(list, name+"="+a[name])
		}
	}
	return list
}
