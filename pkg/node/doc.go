// Package node puts the driver together: it is the only importer of concrete
// providers and class sources. New checks and builds, Run works until its
// context ends.
package node
