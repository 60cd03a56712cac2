// Package credential finds text that looks like a credential: its shape and its place, never its
// value.
package credential

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strings"
)

// Place is the place of something that looks like a credential.
type Place struct {
	// Shape is what it looks like, Key the name of the text, Line the line in the text, from 1.
	Shape, Key string
	Line       int
}

// shape is one form of credentials. A line must have every hint, which are words separated by
// blanks.
type shape struct {
	name, hint string
	form       *regexp.Regexp
	// real reports whether a match, with these groups, is a credential; nil for all.
	real func(groups []string) bool
}

// The forms of tokens that issuers designed to be found.
var shapes = []shape{
	{"an AWS access key", "A IA", regexp.MustCompile(`\b(A(?:KIA|SIA)[A-Z2-7]{16})\b`), notExample},
	{"an AWS secret key", "ecret ey", regexp.MustCompile(`(?:aws_?secret_?(?:access_?)?key|awsSecret(?:Access)?Key)["']?\s*[:=]\s*["']?([A-Za-z0-9/+]{40})\b`), random},
	{"a GitHub token", "gh", regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{36,255})\b`), random},
	{"a GitHub token", "github_pat_", regexp.MustCompile(`\b(github_pat_[A-Za-z0-9_]{50,255})\b`), random},
	{"a GitLab token", "glpat-", regexp.MustCompile(`\b(glpat-[A-Za-z0-9_-]{20,})`), random},
	{"a Slack token", "xox", regexp.MustCompile(`\b(xox[abeoprs]-[A-Za-z0-9-]{20,})`), random},
	{"a Slack webhook", "hooks.slack.com", regexp.MustCompile(`https://hooks\.slack\.com/services/(T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,})`), random},
	{"a Vault token", "hv", regexp.MustCompile(`\b(hv[sbr]\.[A-Za-z0-9_-]{20,})`), random},
	{"a Vault token", "s.", regexp.MustCompile(`(?:^|[\s"'=:])(s\.[A-Za-z0-9]{24})(?:$|[\s"',;])`), mixed},
	{"a Google API key", "AIza", regexp.MustCompile(`\b(AIza[A-Za-z0-9_-]{35})\b`), random},
	{"a Stripe key", "k_live_", regexp.MustCompile(`\b([rs]k_live_[A-Za-z0-9]{16,})\b`), random},
	{"an npm token", "npm_", regexp.MustCompile(`\b(npm_[A-Za-z0-9]{36})\b`), random},
	{"a PyPI token", "pypi-", regexp.MustCompile(`\b(pypi-[A-Za-z0-9_-]{60,})`), random},
	{"a SendGrid key", "SG.", regexp.MustCompile(`\b(SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})`), random},
	{"a JSON web token", "eyJ", regexp.MustCompile(`\b(eyJ[A-Za-z0-9_-]{10,})\.(eyJ[A-Za-z0-9_-]{10,})\.([A-Za-z0-9_-]{20,})`), webToken},
	{"an Authorization header", "uthorization", regexp.MustCompile(`[Aa]uthorization["']?\s*[:=]\s*["']?(?:[Bb]asic|[Bb]earer)\s+([A-Za-z0-9+/=_.-]{16,})`), random},
	{"a registry's login", `"auth"`, regexp.MustCompile(`"auth"\s*:\s*"([A-Za-z0-9+/]{8,}={0,2})"`), login},
	{"a connection string with a password", "= ;", regexp.MustCompile(`(?i)\b(?:server|data source|host|user id|uid|user)\s*=[^;]*;(?:[^;]*;)*?\s*(?:password|pwd)\s*=\s*([^;"'\s]{4,128})`), password},
	{"a URL with a password", "://  : @", regexp.MustCompile(`\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/?#:@"'<>]{0,128}:([^\s/?#@"'<>]{1,256})@[A-Za-z0-9\[_.-]`), password},
}

// privateKey is the one form with several lines.
var privateKey = regexp.MustCompile(`-----BEGIN (?:RSA |EC |DSA |OPENSSH |PGP )?PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n|\\r)*([A-Za-z0-9+/=\s\\:,.-]{64,})`)

// byName is the shape of what is a credential by its name.
const byName = "what looks like a credential"

// maxPlaces bounds the places in one text.
const maxPlaces = 20

// Find finds credentials in a text with a name, such as a variable's or a ConfigMap's key.
func Find(name, text string) []Place {
	var found []Place
	add := func(p Place) {
		if !slices.ContainsFunc(found, func(q Place) bool { return q.Line == p.Line }) && len(found) < maxPlaces {
			found = append(found, p)
		}
	}
	if strings.Contains(text, "PRIVATE KEY") {
		for _, at := range privateKey.FindAllStringSubmatchIndex(text, maxPlaces) {
			if keyMaterial(text[at[2]:at[3]]) {
				add(Place{Shape: "a private key", Line: 1 + strings.Count(text[:at[2]], "\n")})
			}
		}
	}
	number, whole := 0, !strings.Contains(text, "\n")
	for line := range strings.Lines(text) {
		number++
		for i := range shapes {
			if shapes[i].in(line) {
				add(Place{Shape: shapes[i].name, Line: number})
			}
		}
		if whole && named(name, strings.TrimSpace(line)) {
			add(Place{Shape: byName, Key: name, Line: number})
		}
		for _, pair := range pairs(line) {
			if named(pair[0], pair[1]) {
				add(Place{Shape: byName, Key: pair[0], Line: number})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b Place) int { return a.Line - b.Line })
	return found
}

// in reports whether a line has a credential of the form.
func (s *shape) in(line string) bool {
	for hint := range strings.FieldsSeq(s.hint) {
		if !strings.Contains(line, hint) {
			return false
		}
	}
	return slices.ContainsFunc(s.form.FindAllStringSubmatch(line, maxPlaces), func(m []string) bool {
		return s.real == nil || s.real(m[1:])
	})
}

var (
	// setting is a line of a file of settings: key = value, key: value.
	setting = regexp.MustCompile(`^\s*(?:export\s+|-\s+|--)?["']?([A-Za-z0-9_.-]{1,64})["']?\s*[:=]\s*["']?([^"'\s,;]{8,256})["']?\s*[,;]?\s*$`)
	// member is one of JSON.
	member = regexp.MustCompile(`"([A-Za-z0-9_.-]{1,64})"\s*:\s*"([^"\\\s]{8,256})"`)
)

// kin is what every name of a credential contains, in lower case.
var kin = []string{"passw", "passphrase", "pwd", "secret", "token", "credential", "key"}

// pairs are the names and values of a line that may be those of credentials.
func pairs(line string) [][2]string {
	lower := strings.ToLower(line)
	if !slices.ContainsFunc(kin, func(k string) bool { return strings.Contains(lower, k) }) {
		return nil
	}
	var all [][2]string
	if m := setting.FindStringSubmatch(line); m != nil {
		all = append(all, [2]string{m[1], m[2]})
	}
	for _, m := range member.FindAllStringSubmatch(line, maxPlaces) {
		all = append(all, [2]string{m[1], m[2]})
	}
	return all
}

// secretName matches the endings of credentials' names. Names of other things, such as
// passwordFile, tokenTTL or secretName, end differently.
var secretName = regexp.MustCompile(`(?i)(?:^|[_.-]|[a-z])(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|(?:api|access|secret|private|encryption|signing|master|session|hmac|auth|account)[_.-]?key|secret_key_base)$`)

// named reports whether a value with a name is a credential: the name says so, and the value is not
// ordinary text.
func named(name, value string) bool {
	return secretName.MatchString(name) && len(value) >= 8 && len(value) <= 256 && !placeholder(value) && strong(value)
}

var (
	reference = regexp.MustCompile(`^\$|\$\{|\$\(|\{\{|^<.*>$|^\[.*\]$|^%.*%$|^(?:vault|ref|env|file|secret|arn|projects|op|ssm):|^@|^ENC\[|^sha\d+[:-]`)
	hash      = regexp.MustCompile(`^\$(?:2[abxy]|5|6|argon2\w*|scrypt|pbkdf2)[$-]`)
	filler    = regexp.MustCompile(`(?i)^(?:x+|\*+|\.+|-+|_+|0+|1234\w*)$|change[_-]?(?:me|it)|example|placeholder|redacted|dummy|sample|todo|replace|insert|your[_-]|^(?:my|the|some|test|default|db|user|root|admin)?[_-]?(?:passw(?:or)?d|pass|pwd|secret|token|user|root|admin)[0-9]{0,3}$|^(?:true|false|null|none|nil)$`)
	path      = regexp.MustCompile(`^(?:\.{0,2}/|~/|[A-Za-z]:\\)|^[a-z0-9-]+(?:/[a-z0-9._-]+)+$|://|\.(?:com|net|org|io|dev|local|internal|svc)(?::\d+)?$`)
	hex       = regexp.MustCompile(`^[0-9a-fA-F]{20,}$`)
)

// placeholder reports whether a value refers to another one, or names its place.
func placeholder(value string) bool {
	return reference.MatchString(value) || hash.MatchString(value) || filler.MatchString(value) || path.MatchString(value)
}

// strong reports whether a value is as mixed as generated and good passwords are.
func strong(value string) bool {
	lower := strings.ContainsFunc(value, func(r rune) bool { return r >= 'a' && r <= 'z' })
	upper := strings.ContainsFunc(value, func(r rune) bool { return r >= 'A' && r <= 'Z' })
	digit := strings.ContainsFunc(value, func(r rune) bool { return r >= '0' && r <= '9' })
	symbol := strings.ContainsFunc(value, func(r rune) bool { return strings.ContainsRune("!#$%&*+=?@^~|()[]{}<>;", r) })
	if strings.ContainsAny(value, " \t") || entropy(value) < 2.8 {
		return false
	}
	switch {
	case hex.MatchString(value) && digit:
		return true
	case symbol:
		return digit && (lower || upper)
	case lower && upper && digit:
		return !words.MatchString(value)
	}
	return digit && lower && len(value) >= 20 && !strings.ContainsAny(value, "-_./:")
}

// words are names of several words with a number, such as MyService2.
var words = regexp.MustCompile(`^(?:[A-Z]?[a-z]+[-_.]?)+[0-9]{1,4}$`)

// entropy is that of the characters, in bits each.
func entropy(text string) float64 {
	counts := map[rune]float64{}
	n := 0.0
	for _, r := range text {
		counts[r]++
		n++
	}
	bits := 0.0
	for _, c := range counts {
		bits -= c / n * math.Log2(c/n)
	}
	return bits
}

func random(groups []string) bool {
	return notExample(groups) && entropy(groups[0]) >= 3
}

func notExample(groups []string) bool {
	return !strings.Contains(strings.ToLower(groups[0]), "example") && entropy(groups[0]) >= 2.5
}

// mixed is for forms that ordinary words could have too.
func mixed(groups []string) bool {
	text := groups[0][2:]
	return random(groups) && strings.ContainsAny(text, "0123456789") && strings.ToLower(text) != text
}

// keyMaterial reports whether there is a key between the BEGIN and END lines.
func keyMaterial(text string) bool {
	body, _, _ := strings.Cut(text, "-----")
	body = strings.NewReplacer(`\n`, "", `\r`, "").Replace(body)
	body = strings.Join(strings.Fields(body), "")
	return len(body) >= 48 && entropy(body) >= 4
}

// login reports whether it is a user and a password in the form of basic authentication.
func login(groups []string) bool {
	data, err := base64.StdEncoding.DecodeString(groups[0])
	_, pass, ok := strings.Cut(string(data), ":")
	return err == nil && ok && pass != "" && !placeholder(pass)
}

// webToken reports whether the first part is the header of a signed token.
func webToken(groups []string) bool {
	data, err := base64.RawURLEncoding.DecodeString(groups[0])
	var head struct{ Alg string }
	return err == nil && json.Unmarshal(data, &head) == nil && head.Alg != "" && !strings.EqualFold(head.Alg, "none")
}

// password reports whether the text between user and host is a password.
func password(groups []string) bool {
	value := groups[0]
	return !reference.MatchString(value) && !filler.MatchString(value) && !strings.ContainsAny(value, "$<>{}*")
}
