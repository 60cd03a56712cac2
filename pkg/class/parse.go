package class

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// providerName is the rule of the secrets-store provider protocol, which uses the name for a
// socket, but without the empty name.
const providerName = `^[a-zA-Z0-9_-]{1,30}$`

// Limits of an object for Parse. The API server allows 1.5 MiB.
const (
	// MaxParameters is the maximum size of spec.parameters in bytes, keys and values.
	MaxParameters = 512 << 10
	// maxKeys is how many parameters there may be.
	maxKeys = 1000
	// maxSecretObjects is the maximum size of spec.secretObjects in bytes.
	maxSecretObjects = 256 << 10
)

// Parse makes a Class of the API object. The error has the reason fault.InvalidClass, starts with
// the class and names every wrong field; errors.As finds each as a *field.Error.
//
// The warnings name mistakes that do not stop the class from working: a key that looks like a
// misspelt one of Mayfly's, and a secretObjects entry that cannot become a Secret. The latter is no
// error because the mount does not depend on it, and secrets-store-csi-driver mounts such a class.
func Parse(spc *v1.SecretProviderClass) (*Class, []string, error) {
	if spc == nil {
		return nil, nil, fault.New(fault.Internal, "parsing a class: there is no object")
	}
	c := &Class{
		Ref:             Ref{Namespace: spc.Namespace, Name: spc.Name},
		UID:             string(spc.UID),
		ResourceVersion: spc.ResourceVersion,
		Provider:        spc.Spec.Provider,
	}
	bad := checkNames(spc)
	if e := checkSize(spc.Spec.Parameters); e != nil {
		bad = append(bad, e)
	} else {
		bad = append(bad, c.takeParameters(spc.Spec.Parameters)...)
		c.Suspects = atMost(misspelt(c.Parameters))
	}
	warnings := atMost(c.takeSecretObjects(spc.Spec.SecretObjects))
	if len(bad) > 0 {
		var all fault.List
		for _, e := range bad {
			all = append(all, e)
		}
		return nil, warnings, fault.New(fault.InvalidClass, "SecretProviderClass %s: %w", c.Ref, all)
	}
	c.Warnings = warnings
	return c, append(slices.Clone(c.Suspects), warnings...), nil
}

// checkNames checks the names of the class and its provider. The namespace may be missing: a
// manifest need not say where it will be applied.
func checkNames(spc *v1.SecretProviderClass) field.ErrorList {
	var bad field.ErrorList
	meta := field.NewPath("metadata")
	if spc.Name == "" {
		bad = append(bad, field.Required(meta.Child("name"), ""))
	} else {
		bad = append(bad, invalid(meta.Child("name"), spc.Name, validation.IsDNS1123Subdomain(spc.Name))...)
	}
	if spc.Namespace != "" {
		bad = append(bad, invalid(meta.Child("namespace"), spc.Namespace, validation.IsDNS1123Label(spc.Namespace))...)
	}
	path := field.NewPath("spec", "provider")
	switch name := spc.Spec.Provider; {
	case name == "":
		bad = append(bad, field.Required(path, "name the secret store's provider, such as vault"))
	case !regexp.MustCompile(providerName).MatchString(name):
		bad = append(bad, field.Invalid(path, clip(name), "must be at most 30 letters, digits, '-' and '_'"))
	}
	return bad
}

// checkSize refuses parameters that are too large, and names the largest.
func checkSize(params map[string]string) *field.Error {
	path := field.NewPath("spec", "parameters")
	if len(params) > maxKeys {
		return field.TooMany(path, len(params), maxKeys)
	}
	all, largest := 0, ""
	for key, value := range params {
		all += len(key) + len(value)
		if most := len(largest) + len(params[largest]); len(key)+len(value) > most {
			largest = key
		}
	}
	if all <= MaxParameters {
		return nil
	}
	return field.Invalid(path.Child(clip(largest)), "", fmt.Sprintf("is %d bytes long, and all parameters %d, of which a class may have %d: split the class",
		len(params[largest]), all, MaxParameters))
}

// Size estimates how many bytes of memory the class takes.
func (c *Class) Size() int64 {
	const each = 48 // for an entry of a map or list
	size := 512 + len(c.Templates) + len(c.Formats) + len(c.Permissions) + len(c.SecretTemplates)
	for key, value := range c.Parameters {
		size += len(key) + len(value) + each
	}
	for i := range c.SecretObjects {
		size += sizeOf(&c.SecretObjects[i])
	}
	return int64(size)
}

// atMost shortens each warning, and the list.
func atMost(warnings []string) []string {
	const longest = 500
	for i, w := range warnings {
		warnings[i] = printable.Cut(w, longest)
	}
	if len(warnings) <= maxMistakes {
		return warnings
	}
	return append(warnings[:maxMistakes:maxMistakes], fmt.Sprintf("and %d more", len(warnings)-maxMistakes))
}

func invalid(path *field.Path, value string, messages []string) field.ErrorList {
	var bad field.ErrorList
	for _, m := range messages {
		bad = append(bad, field.Invalid(path, clip(value), m))
	}
	return bad
}

// takeParameters sets the fields for Mayfly's own keys, and leaves the other keys to the provider.
func (c *Class) takeParameters(params map[string]string) field.ErrorList {
	var bad field.ErrorList
	keys := ownKeys()
	c.Parameters = make(map[string]string, len(params))
	c.OnUnavailable, c.OnDenied = UnavailableFail, DeniedKeep
	for _, key := range slices.Sorted(maps.Keys(params)) {
		value := params[key]
		take, own := keys[key]
		switch {
		case !own:
			c.Parameters[key] = value
		case strings.TrimSpace(value) == "":
			// A chart template with an unset value renders "": the default.
		default:
			if !slices.Contains(ListKeys(), key) { // where spaces at the start of a line mean something
				value = strings.TrimSpace(value)
			}
			if err := take(c, field.NewPath("spec", "parameters", key), value); err != nil {
				bad = append(bad, err)
			}
		}
	}
	return bad
}

// clip shortens a value that was pasted by mistake, so that it does not fill an Event.
func clip(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s (%d bytes)", printable.Cut(s, limit), len(s))
}
