// Package node builds the driver from its parts: only this package imports concrete providers and
// class sources. New validates and builds, Run serves until its context ends.
package node
