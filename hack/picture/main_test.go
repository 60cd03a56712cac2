package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// TestPictureIsCurrent: docs/how-it-works.svg is this program's output.
func TestPictureIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../docs/how-it-works.svg")
	if err != nil || string(have) != string(draw()) {
		t.Errorf("docs/how-it-works.svg is stale (%v): make generate", err)
	}
}

func TestPictureIsXML(t *testing.T) {
	for d := xml.NewDecoder(strings.NewReader(string(draw()))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
