package vault

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

const maxPathBytes = 4096

// parsePath splits a secretPath into the API path, without "v1/", and the query. It takes
// the path literally: a space or percent sign is that character of the secret's name. It
// drops doubled and trailing slashes.
//
// It refuses everything that might become another path if a server decodes it once more:
// "." and ".." elements, and percent-encoded ones, also percent-encoded slashes and
// backslashes.
func parsePath(text string) (string, url.Values, error) {
	text, rawQuery, _ := strings.Cut(text, "?")
	switch {
	case len(text)+len(rawQuery) > maxPathBytes:
		return "", nil, fmt.Errorf("must be at most %d bytes long", maxPathBytes)
	case endpoint.HasControl(text) || endpoint.HasControl(rawQuery):
		return "", nil, errors.New("must not hold control characters")
	}
	elements := slices.DeleteFunc(strings.Split(text, "/"), func(e string) bool { return e == "" })
	if len(elements) > 0 && elements[0] == "v1" {
		elements = elements[1:]
	}
	if len(elements) == 0 {
		return "", nil, errors.New("must be the path of an API read, such as secret/data/app")
	}
	for _, e := range elements {
		if err := checkElement(e); err != nil {
			return "", nil, err
		}
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "", nil, errors.New("the part after the question mark must be a URL query such as version=2")
	}
	return strings.Join(elements, "/"), query, nil
}

// checkElement also checks percent-encoded characters, however often they are encoded.
func checkElement(element string) error {
	for range 4 {
		if element == "." || element == ".." {
			return errors.New(`must not hold "." or ".." elements`)
		}
		decoded, err := url.PathUnescape(element)
		if err != nil || decoded == element {
			return nil
		}
		if strings.ContainsAny(decoded, `/\`) || endpoint.HasControl(decoded) {
			return errors.New("must not hold percent-encoded slashes, backslashes or control characters")
		}
		element = decoded
	}
	return errors.New("must not be percent-encoded: write the characters themselves")
}

// parseMount checks the path of an auth method.
func parseMount(text string) (string, error) {
	mount, query, err := parsePath(text)
	switch {
	case err != nil:
		return "", errors.New("must be the path of an auth method, such as kubernetes")
	case len(query) > 0 || strings.Contains(text, "?"):
		return "", errors.New("must be a path without a query")
	}
	return mount, nil
}
