package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// maxFile bounds the YAML file in bytes.
const maxFile = 64 << 10

// setting is one setting of the file.
type setting struct {
	flag   string
	line   int
	values []string
}

func readFile(path string, flags []string) ([]setting, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", FlagConfig, err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("--%s: %s is not a regular file", FlagConfig, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("--%s: %w", FlagConfig, err)
	case len(data) > maxFile:
		return nil, fmt.Errorf("--%s: %s is larger than %d bytes", FlagConfig, path, maxFile)
	}
	settings, err := parseFile(data, flags)
	if err != nil {
		return nil, fmt.Errorf("--%s: %s%w", FlagConfig, path, err)
	}
	return settings, nil
}

// parseFile parses one document, a mapping of known names to scalars or lists of scalars. Its
// errors begin with the line, such as ":3: ".
func parseFile(data []byte, flags []string) ([]setting, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf(": is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New(": must hold one document")
	}
	top := document.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf(":%d: must hold settings, such as transitKey: kubernetes", top.Line)
	}
	var settings []setting
	seen := map[string]bool{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		s, err := parseSetting(top.Content[i], top.Content[i+1], flags)
		switch {
		case err != nil:
			return nil, err
		case seen[s.flag]:
			return nil, fmt.Errorf(":%d: %s is there twice", s.line, YAMLName(s.flag))
		}
		seen[s.flag] = true
		settings = append(settings, s)
	}
	return settings, nil
}

func parseSetting(key, value *yaml.Node, flags []string) (setting, error) {
	at := slices.IndexFunc(flags, func(f string) bool { return YAMLName(f) == key.Value })
	if key.Kind != yaml.ScalarNode || at < 0 {
		return setting{}, fmt.Errorf(":%d: there is no setting %q; the names are those of the flags in camel case, as in transitKey", key.Line, clip(key.Value))
	}
	s := setting{flag: flags[at], line: value.Line}
	items := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		items = value.Content
	}
	for _, item := range items {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			return setting{}, fmt.Errorf(":%d: %s: must be a value or a list of values", item.Line, key.Value)
		}
		s.values = append(s.values, item.Value)
	}
	return s, nil
}

// clip shortens a value in an error.
func clip(s string) string { return printable.Cut(s, 64) }
