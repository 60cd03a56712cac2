package output

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

// The part of SARIF 2.1.0 that code scanning reads:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	Results []sarifResult `json:"results"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version,omitempty"`
	InformationURI string      `json:"informationUri"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID                   string      `json:"id"`
	ShortDescription     sarifText   `json:"shortDescription"`
	Help                 sarifText   `json:"help"`
	HelpURI              string      `json:"helpUri"`
	DefaultConfiguration sarifConfig `json:"defaultConfiguration"`
}

type sarifConfig struct {
	Level string `json:"level"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID              string            `json:"ruleId"`
	RuleIndex           int               `json:"ruleIndex"`
	Level               string            `json:"level"`
	Message             sarifText         `json:"message"`
	Locations           []sarifLocation   `json:"locations,omitempty"`
	PartialFingerprints map[string]string `json:"partialFingerprints"`
}

type sarifLocation struct {
	PhysicalLocation struct {
		ArtifactLocation sarifArtifact `json:"artifactLocation"`
		Region           *sarifRegion  `json:"region,omitempty"`
	} `json:"physicalLocation"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

// writeSARIF writes the report for code scanning.
func writeSARIF(w io.Writer, r *finding.Report, version string) error {
	var run sarifRun
	run.Tool.Driver = sarifDriver{Name: "kubectl-mayfly", Version: version, InformationURI: finding.DocsPage}
	run.Tool.Driver.Rules, run.Results = []sarifRule{}, []sarifResult{}
	index := map[string]int{}
	for i := range r.Findings {
		f := &r.Findings[i]
		at, ok := index[f.Code]
		if !ok {
			rule := finding.RuleOf(f.Code)
			at = len(index)
			index[f.Code] = at
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
				ID: rule.Code, ShortDescription: sarifText{rule.Title}, Help: sarifText{rule.Remedy}, HelpURI: rule.Docs(),
				DefaultConfiguration: sarifConfig{sarifLevel(rule.Level)},
			})
		}
		run.Results = append(run.Results, resultOf(f, at))
	}
	return EncodeJSON(w, sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}})
}

func sarifLevel(l finding.Level) string {
	if l == finding.Info {
		return "note"
	}
	return string(l)
}

func resultOf(f *finding.Finding, rule int) sarifResult {
	result := sarifResult{
		RuleID: f.Code, RuleIndex: rule,
		Level: sarifLevel(f.Level), Message: sarifText{f.Message + ": " + f.Remedy},
	}
	if about := f.Object.String(); about != "" {
		result.Message.Text = about + ": " + result.Message.Text
	}
	// It leaves out the line, so that a finding stays the same when lines before it change.
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{f.Code, f.File, f.Object.String(), f.Message}))
	result.PartialFingerprints = map[string]string{"mayfly/v1": hex.EncodeToString(sum[:])}
	if f.File != "" && f.File != finding.Stdin {
		var l sarifLocation
		l.PhysicalLocation.ArtifactLocation.URI = fileURI(f.File)
		l.PhysicalLocation.Region = &sarifRegion{max(f.Line, 1)}
		result.Locations = []sarifLocation{l}
	}
	return result
}

// fileURI converts a path to a reference: a relative one stays relative.
func fileURI(path string) string {
	path = filepath.ToSlash(path)
	if filepath.IsAbs(path) {
		return (&url.URL{Scheme: "file", Path: path}).String()
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}
