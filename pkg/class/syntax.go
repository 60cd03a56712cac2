package class

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// maxJSONDepth is how deep JSON may nest, which is read by recursion.
const maxJSONDepth = 100

// yamlLine takes the line from an error of the YAML parser, which has it
// nowhere but in its text.
const yamlLine = `^yaml: (?:line (\d+): )?(?s:(.*))$`

func parseYAML(text []byte) ([]*yaml.Node, error) {
	var nodes []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		switch {
		case errors.Is(err, io.EOF):
			return nodes, nil
		case err != nil:
			return nodes, yamlError(err)
		}
		nodes = append(nodes, n.Content...)
	}
}

func yamlError(err error) error {
	match := regexp.MustCompile(yamlLine).FindStringSubmatch(err.Error())
	if match == nil {
		return &syntaxError{text: err.Error()}
	}
	line, _ := strconv.Atoi(match[1])
	return &syntaxError{line: line, text: "not valid YAML: " + match[2]}
}

// jsonReader turns JSON into the nodes that YAML would give, with lines.
type jsonReader struct {
	text []byte
	dec  *json.Decoder
	// line is that of offset at.
	line, at int
}

func parseJSON(text []byte) ([]*yaml.Node, error) {
	j := &jsonReader{text: text, dec: json.NewDecoder(bytes.NewReader(text)), line: 1}
	j.dec.UseNumber()
	var nodes []*yaml.Node
	for {
		n, err := j.value(0)
		switch {
		case errors.Is(err, io.EOF):
			return nodes, nil
		case err != nil:
			return nil, j.fail(err)
		}
		nodes = append(nodes, n)
	}
}

func (j *jsonReader) fail(err error) error {
	at := int(j.dec.InputOffset())
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = int(syntax.Offset)
	}
	line := 1 + bytes.Count(j.text[:min(at, len(j.text))], []byte("\n"))
	return &syntaxError{line: line, text: "not valid JSON: " + err.Error()}
}

// value reads the next value; io.EOF means that there is none.
func (j *jsonReader) value(depth int) (*yaml.Node, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxJSONDepth)
	}
	t, err := j.dec.Token()
	if err != nil {
		if depth > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := j.scalar(t)
	open, ok := t.(json.Delim)
	if !ok {
		return n, nil
	}
	n.Kind = yaml.SequenceNode
	if open == '{' {
		n.Kind = yaml.MappingNode
	}
	for j.dec.More() {
		e, err := j.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, e)
	}
	if _, err := j.dec.Token(); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return n, nil
}

// scalar makes a node of a token. Quoted, a string stays one.
func (j *jsonReader) scalar(t json.Token) *yaml.Node {
	end := int(j.dec.InputOffset())
	j.line += bytes.Count(j.text[j.at:end], []byte("\n"))
	j.at = end
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: j.line}
	switch t := t.(type) {
	case string:
		n.Tag, n.Value, n.Style = "!!str", t, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!float", t.String()
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(t)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n
}
