package class

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The limits of Mayfly's own parameters.
const (
	// MinRefreshInterval is the shortest refreshInterval of a class. A shorter one would keep the
	// store busy with this node alone.
	MinRefreshInterval = time.Second
	// MinSizeLimit is the smallest volumeSizeLimit in bytes: one page.
	MinSizeLimit = 4096
	// MinInodeLimit is the smallest volumeInodeLimit: a volume of one file needs eight inodes while
	// its content is swapped.
	MinInodeLimit = 8
)

// Mayfly's own keys of spec.parameters. They have the same meaning for every provider, and no
// provider sees them.
const (
	RefreshIntervalKey = "refreshInterval"
	SizeLimitKey       = "volumeSizeLimit"
	InodeLimitKey      = "volumeInodeLimit"
	CredentialScopeKey = "credentialScope"
	OnUnavailableKey   = "onUnavailable"
	OnDeniedKey        = "onDenied"
	StrictKey          = "strict"
	TemplatesKey       = "templates"
	FormatsKey         = "formats"
	PermissionsKey     = "permissions"
	SecretOwnerKey     = "secretOwner"
	SecretTemplatesKey = "secretTemplates"
	RolloutRestartKey  = "rolloutRestart"
)

// taker sets one field of a class from the value of one key.
type taker func(c *Class, path *field.Path, value string) *field.Error

func ownKeys() map[string]taker {
	return map[string]taker{
		RefreshIntervalKey: takeRefreshInterval,
		SizeLimitKey:       takeQuantity(func(c *Class) *int64 { return &c.SizeLimit }, MinSizeLimit, "a size in bytes such as 512Ki or 16Mi"),
		InodeLimitKey:      takeQuantity(func(c *Class) *int64 { return &c.InodeLimit }, MinInodeLimit, "a number such as 1000 or 4k"),
		CredentialScopeKey: takeWord(func(c *Class) *CredentialScope { return &c.CredentialScope }, ScopePod, ScopeServiceAccount),
		OnUnavailableKey:   takeWord(func(c *Class) *OnUnavailable { return &c.OnUnavailable }, UnavailableFail, UnavailableLastGood),
		OnDeniedKey:        takeWord(func(c *Class) *OnDenied { return &c.OnDenied }, DeniedKeep, DeniedEmpty),
		SecretOwnerKey:     takeWord(func(c *Class) *SecretOwner { return &c.SecretOwner }, OwnerClass, OwnerPods),
		RolloutRestartKey:  takeWorkloads,
		StrictKey: func(c *Class, path *field.Path, value string) *field.Error {
			if value != "true" && value != "false" {
				return field.Invalid(path, clip(value), `must be "true" or "false"`)
			}
			c.Strict = value == "true"
			return nil
		},
		TemplatesKey:       takeText(func(c *Class) *string { return &c.Templates }),
		FormatsKey:         takeText(func(c *Class) *string { return &c.Formats }),
		PermissionsKey:     takeText(func(c *Class) *string { return &c.Permissions }),
		SecretTemplatesKey: takeText(func(c *Class) *string { return &c.SecretTemplates }),
	}
}

func takeRefreshInterval(c *Class, path *field.Path, value string) *field.Error {
	d, wrong := ParseInterval(value)
	if wrong != "" {
		return field.Invalid(path, clip(value), wrong)
	}
	c.RefreshInterval = d
	return nil
}

// ParseInterval reads a refreshInterval; wrong says what is wrong with a bad one. It refuses zero
// and "never", because some readers expect them to mean "always" and others "not at all". A long
// interval is unambiguous.
func ParseInterval(value string) (d time.Duration, wrong string) {
	d, err := time.ParseDuration(value)
	switch {
	case err != nil:
		return 0, "must be a duration with a unit, such as 30s, 2m or 1h30m"
	case d < MinRefreshInterval:
		return 0, fmt.Sprintf("must be at least %s; to refresh rarely, set a long interval such as 8760h", MinRefreshInterval)
	}
	return d, ""
}

// quantity matches valid limits. It is narrower than a Kubernetes quantity, whose exponents can
// make numbers that take forever to compute.
const quantity = `^[0-9]{1,18}(\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|k|M|G|T)?$`

func takeQuantity(to func(*Class) *int64, least int64, kind string) taker {
	return func(c *Class, path *field.Path, value string) *field.Error {
		if !regexp.MustCompile(quantity).MatchString(value) {
			return field.Invalid(path, clip(value), "must be "+kind)
		}
		q, err := resource.ParseQuantity(value)
		switch {
		case err != nil:
			return field.Invalid(path, value, "must be "+kind)
		case q.Cmp(*resource.NewQuantity(least, resource.DecimalSI)) < 0:
			return field.Invalid(path, value, fmt.Sprintf("must be at least %d", least))
		case q.Cmp(*resource.NewQuantity(math.MaxInt64, resource.DecimalSI)) >= 0:
			return field.Invalid(path, value, "is more than any machine has")
		}
		*to(c) = q.Value()
		return nil
	}
}

func takeWord[T ~string](to func(*Class) *T, words ...T) taker {
	return func(c *Class, path *field.Path, value string) *field.Error {
		if !slices.Contains(words, T(value)) {
			return field.NotSupported(path, clip(value), words)
		}
		*to(c) = T(value)
		return nil
	}
}

func takeText(to func(*Class) *string) taker {
	return func(c *Class, _ *field.Path, value string) *field.Error {
		*to(c) = value
		return nil
	}
}

// ListKeys returns those of Mayfly's own keys that have YAML lists.
func ListKeys() []string {
	return []string{TemplatesKey, FormatsKey, PermissionsKey, SecretTemplatesKey}
}

// OwnKeys returns Mayfly's own keys of spec.parameters, sorted.
func OwnKeys() []string { return slices.Sorted(maps.Keys(ownKeys())) }

// misspelt lists the provider's keys that look like one of Mayfly's.
func misspelt(params map[string]string) []string {
	var list []string
	own := OwnKeys()
	for _, key := range slices.Sorted(maps.Keys(params)) {
		if suggestion := DidYouMean(key, own); suggestion != "" {
			list = append(list, fmt.Sprintf("spec.parameters.%s: unknown%s", key, suggestion))
		}
	}
	return list
}
