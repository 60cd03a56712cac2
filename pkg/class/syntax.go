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

// maxJSONDepth bounds how deep JSON may nest, because the reader is recursive.
const maxJSONDepth = 100

// yamlLine finds the line in an error of the YAML parser, which reports it in its text only.
const yamlLine = `^yaml: (?:line (\d+): )?(?s:(.*))$`

// maxDirectives bounds the lines that begin with a percent sign, because the parser compares each
// %TAG with all before it.
const maxDirectives = 16

// CheckYAML refuses a text that the parser would turn into far more memory than its size. It counts
// the marks that every further node or comment needs. The parser allocates about 400 bytes for
// each, and for a moment twice that.
func CheckYAML(text []byte, most int) error {
	marks, directives := 0, 0
	for i, b := range text {
		switch b {
		case '\n', '\r', ',', '[', '{', ':', '#', '&', '*', '!':
			marks++
		case '-', '?':
			if i+1 == len(text) || text[i+1] <= ' ' || text[i+1] >= 0x80 { // Unicode has line breaks too
				marks++
			}
		case '%':
			if i == 0 || text[i-1] < ' ' || text[i-1] >= 0x80 {
				directives++
			}
		}
	}
	switch {
	case marks > most:
		return fmt.Errorf("holds more than %d lines, keys, values and comments", most)
	case directives > maxDirectives:
		return fmt.Errorf("holds more than %d directives", maxDirectives)
	}
	return nil
}

func parseYAML(text []byte) ([]*yaml.Node, error) {
	if err := CheckYAML(text, maxMarks); err != nil {
		return nil, &syntaxError{text: err.Error()}
	}
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

// jsonReader converts JSON to the nodes of the same YAML, with lines.
type jsonReader struct {
	text []byte
	dec  *json.Decoder
	// line is the line of offset at.
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
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
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

// scalar makes a node of a token. The quoted style keeps a string a string.
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

// Nodes parses the document. A node's line counts from the document's start, the line in the error
// from the manifest's. With an error it returns the nodes before the mistake.
func (d Document) Nodes() ([]*yaml.Node, error) {
	if len(d.Text) > MaxManifest {
		return nil, fmt.Errorf("document 1, after line %d: is %d bytes long, of which a document may have %d", d.Before, len(d.Text), MaxManifest)
	}
	return (&reader{index: 1, before: d.Before}).parse(d.Text)
}
