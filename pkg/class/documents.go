package class

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Document is one document of a manifest.
type Document struct {
	Text []byte
	// Before is how many lines of the manifest come before the text.
	Before int
}

// Documents splits a manifest, YAML or JSON, at its "---" lines and leaves out the documents with
// nothing but comments.
func Documents(data []byte) []Document {
	found := documents(data)
	all := make([]Document, len(found))
	for i, d := range found {
		all[i] = Document{Text: d.text, Before: d.before}
	}
	return all
}

// Nodes parses the document. A node's line counts from the document's start, the line in the error
// from the manifest's. With an error it returns the nodes before the mistake.
func (d Document) Nodes() ([]*yaml.Node, error) {
	if len(d.Text) > MaxManifest {
		return nil, fmt.Errorf("document 1, after line %d: is %d bytes long, of which a document may have %d", d.Before, len(d.Text), MaxManifest)
	}
	return (&reader{index: 1, before: d.Before}).parse(d.Text)
}
