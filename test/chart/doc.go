// Package chart has the tests of the Helm chart: what it renders, what it refuses, and that its
// schema, its reference in docs/values.md and the driver's flags agree. "go test ./test/chart
// -update" writes the generated files.
package chart
