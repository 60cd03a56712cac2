// Picture draws the picture of README.md to standard output, as SVG:
//
//	go run ./hack/picture > docs/how-it-works.svg
package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
)

const (
	width, height = 760, 400
	rowHeight     = 40
)

// steps are the driver's steps for a volume, in this order.
var steps = [][2]string{
	{"class", "what the SecretProviderClass asks for"},
	{"provider", "log in to the store as the pod, read"},
	{"tmpfs", "mount it for the pod, once"},
	{"files", "write all or nothing, swap by one rename"},
	{"scheduler", "look again: lease, certificate, interval"},
}

const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title">
<title id="title">kubelet calls mayfly-node, which logs in to the store as the pod and writes its secrets into a tmpfs of the pod</title>
<!-- Made by hack/picture. Do not edit. -->
<style>
text { font: 14px sans-serif; fill: #1f2328 }
.b { font-weight: bold }
.s { font-size: 13px; fill: #57606a }
.box { fill: #ffffff; stroke: #57606a; stroke-width: 1.5 }
.step { fill: #ddf4ff; stroke: #0969da }
.line { fill: none; stroke: #0969da; stroke-width: 2; marker-end: url(#end) }
</style>
<defs><marker id="end" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" fill="#0969da"/></marker></defs>
<rect width="%[1]d" height="%[2]d" fill="#f6f8fa"/>
`

// drawing is an SVG under construction.
type drawing struct{ bytes.Buffer }

func (d *drawing) box(class string, x, y, w, h int) {
	fmt.Fprintf(d, "<rect class=%q x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n", class, x, y, w, h)
}

func (d *drawing) text(class string, x, y int, text string) {
	fmt.Fprintf(d, "<text class=%q x=\"%d\" y=\"%d\">", class, x, y)
	_ = xml.EscapeText(d, []byte(text)) // writing to a Buffer cannot fail
	d.WriteString("</text>\n")
}

func (d *drawing) line(path string) { fmt.Fprintf(d, "<path class=\"line\" d=%q/>\n", path) }

func draw() []byte {
	d := &drawing{}
	fmt.Fprintf(d, head, width, height, width, height)

	d.box("box", 20, 20, 140, 48)
	d.text("b", 62, 49, "kubelet")
	d.line("M160 44H250V76")
	d.text("s", 262, 49, "NodePublishVolume, with the pod's service account token")

	d.box("box", 20, 78, 500, 40+rowHeight*len(steps)+4)
	d.text("b", 36, 104, "mayfly-node, one per node")
	for i, step := range steps {
		y := 118 + rowHeight*i
		d.box("step", 36, y, 468, 32)
		d.text("b", 48, y+21, step[0])
		d.text("s", 148, y+21, step[1])
	}

	d.box("box", 610, 142, 130, 64)
	d.text("b", 626, 170, "store")
	d.text("s", 626, 190, "such as Vault")
	d.line("M504 174H608")

	d.box("box", 20, 348, 720, 40)
	d.text("b", 36, 373, "/mnt/secrets/db-password")
	d.text("s", 268, 373, "a file in a tmpfs of the pod's own, refreshed in place")
	d.line("M250 322V346")
	d.WriteString("</svg>\n")
	return d.Bytes()
}

func main() {
	if _, err := os.Stdout.Write(draw()); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}
