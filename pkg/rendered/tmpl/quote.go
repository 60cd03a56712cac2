package tmpl

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// The reasons why a text does not fit a format.
const (
	notText   = "the value is not valid UTF-8, which the format needs: encode it, as with b64enc"
	hasBreaks = "the value has a line break, which the format cannot hold"
	hasNUL    = "the value has a NUL byte, which the format cannot hold"
	differs   = `readers of .env files differ about the value, for its quotes, backslashes, dollar signs or carriage returns: use another format, such as shellQuote`
)

// plainWord matches values that need no quotes in a dotenv file or a shell.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=-]+$`)

// dotenv quotes a value so that docker compose, Node.js and the dotenv libraries of Node.js, Python,
// Ruby and Go read it unchanged: without quotes if it needs none, otherwise in single quotes, which
// all of them take literally, and in double quotes if single quotes are impossible. In double quotes
// all of them read \n as a line break; they differ about every other escape.
func dotenv(s string) (string, string) {
	switch {
	case strings.ContainsRune(s, 0):
		return "", hasNUL
	case plainWord.MatchString(s):
		return s, ""
	case !strings.ContainsAny(s, "'\n\r") && !strings.Contains(s, `\\`) && !strings.HasSuffix(s, `\`):
		return "'" + s + "'", ""
	case !strings.ContainsAny(s, "\"\\$\r"):
		return `"` + strings.ReplaceAll(s, "\n", `\n`) + `"`, ""
	}
	return "", differs
}

// shellQuote quotes a value for POSIX shells.
func shellQuote(s string) (string, string) {
	switch {
	case strings.ContainsRune(s, 0):
		return "", hasNUL
	case plainWord.MatchString(s):
		return s, ""
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'", ""
}

// properties quotes a value for java.util.Properties, which reads ISO 8859-1.
func properties(s string) (string, string) {
	if !utf8.ValidString(s) {
		return "", notText
	}
	var out strings.Builder
	short := map[rune]string{'\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\f': `\f`, '=': `\=`, ':': `\:`, '#': `\#`, '!': `\!`}
	for i, r := range s {
		escaped, known := short[r]
		switch {
		case known:
			out.WriteString(escaped)
		case r == ' ' && i == 0:
			out.WriteString(`\ `)
		case r >= ' ' && r <= '~':
			out.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04X`, unit)
			}
		}
	}
	return out.String(), ""
}

// pgpass quotes a field of PostgreSQL's password file.
func pgpass(s string) (string, string) {
	switch {
	case strings.ContainsAny(s, "\r\n"):
		return "", hasBreaks
	case strings.ContainsRune(s, 0):
		return "", hasNUL
	}
	return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(s), ""
}

// ini quotes a value of an INI file in double quotes, as Git, systemd and Python's parsers without
// interpolation read it.
func ini(s string) (string, string) {
	switch {
	case strings.ContainsAny(s, "\r\n"):
		return "", hasBreaks
	case strings.ContainsRune(s, 0):
		return "", hasNUL
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`, ""
}

// htmlText quotes a value for the text of HTML, and for an attribute in quotes.
func htmlText(s string) string { return html.EscapeString(strings.ReplaceAll(s, "\x00", "\uFFFD")) }

// jsText quotes a value for a string of JavaScript, also within HTML.
func jsText(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case strings.ContainsRune(`\'"`, r):
			out.WriteString(`\` + s[:size])
		case strings.ContainsRune("<>&=", r), r < ' ', r >= utf8.RuneSelf && !unicode.IsPrint(r):
			fmt.Fprintf(&out, `\u%04X`, r)
		default:
			out.WriteString(s[:size])
		}
		s = s[size:]
	}
	return out.String()
}
