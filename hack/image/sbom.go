package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/opencontainers/go-digest"
)

// document is the part of SPDX 2.3 that lists the contents of an image:
// https://spdx.github.io/spdx-spec/v2.3/
type document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creationInfo   `json:"creationInfo"`
	Packages          []pkg          `json:"packages"`
	Relationships     []relationship `json:"relationships"`
}

type creationInfo struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type pkg struct {
	Name             string        `json:"name"`
	SPDXID           string        `json:"SPDXID"`
	VersionInfo      string        `json:"versionInfo"`
	Purpose          string        `json:"primaryPackagePurpose"`
	DownloadLocation string        `json:"downloadLocation"`
	FilesAnalyzed    bool          `json:"filesAnalyzed"`
	LicenseConcluded string        `json:"licenseConcluded"`
	LicenseDeclared  string        `json:"licenseDeclared"`
	CopyrightText    string        `json:"copyrightText"`
	Comment          string        `json:"comment,omitempty"`
	Checksums        []checksum    `json:"checksums,omitempty"`
	ExternalRefs     []externalRef `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type externalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	mainModule = "github.com/mayfly-csi/mayfly"
	rootsFrom  = "golang.org/x/crypto/x509roots/fallback"
)

// writeSBOM writes the contents of one platform's image, from the build information in the binary.
func (o *options) writeSBOM(path string, p platform, binary []byte, manifest digest.Digest) error {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return fmt.Errorf("reading what the binary is made of: %w", err)
	}
	roots, err := rootsVersion()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(o.sbom(p, binary, manifest, info, roots)); err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the SBOM: %w", err)
	}
	return nil
}

func (o *options) sbom(p platform, binary []byte, manifest digest.Digest, info *debug.BuildInfo, roots string) document {
	image := newPackage("image", o.name, o.version, "CONTAINER")
	image.Comment = "platform " + p.String()
	image.Checksums = []checksum{{"SHA256", manifest.Encoded()}}
	sum := sha256.Sum256(binary)
	driver := newPackage(o.program, mainModule, o.version, "APPLICATION")
	driver.LicenseDeclared = "Apache-2.0"
	driver.Checksums = []checksum{{"SHA256", hex.EncodeToString(sum[:])}}
	driver.ExternalRefs = purl(mainModule, o.version)
	certificates := newPackage("ca-certificates", rootsFrom, roots, "FILE")
	certificates.Comment = "etc/ssl/certs/ca-certificates.crt is made of it"
	certificates.ExternalRefs = purl(rootsFrom, roots)

	d := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT",
		Name:              fmt.Sprintf("%s:%s %s", o.name, o.version, p),
		DocumentNamespace: "https://" + mainModule + "/spdx/" + manifest.Encoded(),
		CreationInfo:      creationInfo{o.created().Format("2006-01-02T15:04:05Z"), []string{"Tool: mayfly-hack-image"}},
		Packages:          []pkg{image, driver, certificates},
		Relationships: []relationship{
			{"SPDXRef-DOCUMENT", "DESCRIBES", image.SPDXID},
			{image.SPDXID, "CONTAINS", driver.SPDXID},
			{image.SPDXID, "CONTAINS", certificates.SPDXID},
		},
	}
	for _, module := range modules(info) {
		d.Packages = append(d.Packages, module)
		d.Relationships = append(d.Relationships, relationship{driver.SPDXID, "DEPENDS_ON", module.SPDXID})
	}
	return d
}

// modules are the Go modules in the binary, and Go itself.
func modules(info *debug.BuildInfo) []pkg {
	version := strings.TrimPrefix(info.GoVersion, "go")
	std := newPackage("go-stdlib", "stdlib", version, "LIBRARY")
	std.LicenseDeclared = "BSD-3-Clause"
	std.ExternalRefs = purl("stdlib", version)
	all := []pkg{std}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		module := newPackage("go-"+dep.Path, dep.Path, dep.Version, "LIBRARY")
		module.Comment = "go.sum " + dep.Sum
		module.ExternalRefs = purl(dep.Path, dep.Version)
		all = append(all, module)
	}
	return all
}

// notID matches what an SPDX identifier may not contain.
var notID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func newPackage(id, name, version, purpose string) pkg {
	const unknown = "NOASSERTION"
	return pkg{
		Name: name, SPDXID: "SPDXRef-" + notID.ReplaceAllString(id, "-"), VersionInfo: version, Purpose: purpose,
		DownloadLocation: unknown, LicenseConcluded: unknown, LicenseDeclared: unknown, CopyrightText: unknown,
	}
}

// purl is the name by which scanners look up a Go module.
func purl(path, version string) []externalRef {
	return []externalRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + path + "@" + url.PathEscape(version)}}
}

// rootsVersion is the version of the module with the certificate authorities, from this program's
// own build information.
func rootsVersion() (string, error) {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, dep := range info.Deps {
			if dep.Path == rootsFrom {
				return dep.Version, nil
			}
		}
	}
	return "", fmt.Errorf("finding the version of %s: this program does not know what it is made of", rootsFrom)
}
