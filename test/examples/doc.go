// Package examples runs the applications of examples/ on a volume as the driver
// writes it, and changes the volume under them.
package examples
