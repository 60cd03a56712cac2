//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/test/browser"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var picture = flag.String("picture", "", "make the picture of the dashboard, and write it to this file")

// drawnPanels are the titles of the panels in the picture.
var drawnPanels = []string{
	"Nodes away", "Volumes", "Volumes failing", "Oldest content", "First credential ends in", "Circuits open",
	"Publishes, refreshes, rotations", "First publishes that failed", "Refreshes that failed",
	"Failed calls, as kubelet sees them", "Answers that are no success", "Time until the first credential ends",
	"Requests by purpose", "Logins and reads that volumes share", "Requests to the API server",
}

// maxPicture is how many bytes the picture may add to the repository and to README.md.
const maxPicture = 150 << 10

// TestPicture makes the picture of the dashboard: Prometheus scrapes the driver and kubelet while
// pods come and go, secrets rotate, and Vault is sealed for a while. Prometheus answers the panels'
// queries, and a page draws the answers.
func TestPicture(t *testing.T) {
	if *picture == "" {
		t.Skip("makes no picture without -picture: make dashboard-picture")
	}
	b := browser.Start(t)
	c := shared.newTenant(t)
	c.account("denied")
	c.put("db", "one")
	c.class("secrets", map[string]string{"refreshInterval": "5s"}, c.object("password", "db"))
	mount := c.ns + "-pki"
	testkit.Must(t, c.vault.EnablePKI(t.Context(), mount, "web"))
	c.issueFrom(mount, "60s", map[string]string{"refreshInterval": "5s"})
	testkit.Must(t, c.awaitOtherNamespacesGone(t.Context()))

	p := startPrometheus(c)
	began := time.Now()
	c.runTimeline()
	panels := p.ask(began, time.Now())
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		data, err := json.Marshal(panels)
		if err == nil {
			var text []byte
			if text, err = os.ReadFile("testdata/picture.html"); err == nil {
				_, err = w.Write([]byte(strings.Replace(string(text), "/* panels */", string(data), 1)))
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	defer page.Close()
	b.Open(page.URL, 1200, "light")
	data := cropped(t, b.Screenshot(), b.Eval("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom) + 14"))
	if len(data) > maxPicture || len(b.Problems()) > 0 {
		t.Errorf("the picture has %d bytes, the browser says %v", len(data), b.Problems())
	}
	testkit.Must(t, os.WriteFile(*picture, data, 0o644))
}

// cropped cuts a picture to its first lines.
func cropped(t *testing.T, picture []byte, lines string) []byte {
	t.Helper()
	height := testkit.Value(strconv.Atoi(lines))(t)
	whole := testkit.Value(png.Decode(bytes.NewReader(picture)))(t)
	part := image.NewRGBA(image.Rect(0, 0, whole.Bounds().Dx(), min(height, whole.Bounds().Dy())))
	draw.Draw(part, part.Bounds(), whole, image.Point{}, draw.Src)
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	testkit.Must(t, encoder.Encode(&b, part))
	return b.Bytes()
}

// runTimeline starts pods, rotates secrets and seals Vault for a minute, within four minutes.
func (c *tenant) runTimeline() {
	c.t.Helper()
	type event struct {
		at int // seconds after the start
		do func()
	}
	var events []event
	for i := range 12 { // pods come one after the other
		events = append(events, event{4 * i, func() {
			c.start(newPod(fmt.Sprintf("web-%d", i), "exec sleep 100000", mounts("secrets")))
			if i%3 == 0 {
				c.start(newPod(fmt.Sprintf("tls-%d", i), "exec sleep 100000", mounts("certificate")))
			}
		}})
	}
	for i, at := range []int{65, 85, 215} {
		events = append(events, event{at, func() { c.put("db", strconv.Itoa(i)) }})
	}
	events = append(events,
		event{105, func() {
			testkit.Must(c.t, c.vault.Seal(c.t.Context()))
			c.t.Cleanup(func() { testkit.Must(c.t, c.vault.Unseal(context.WithoutCancel(c.t.Context()))) })
		}},
		event{110, func() { c.start(newPod("late", "exec sleep 100000", mounts("secrets"))) }},
		event{165, func() { testkit.Must(c.t, c.vault.Unseal(c.t.Context())) }},
		event{185, func() { c.start(newPod("denied", printOnce, as("denied"), mounts("secrets"))) }})
	for i := range 6 {
		events = append(events, event{222 + 2*i, func() {
			testkit.Must(c.t, c.api.CoreV1().Pods(c.ns).Delete(c.t.Context(), fmt.Sprintf("web-%d", i), metav1.DeleteOptions{}))
		}})
	}
	events = append(events, event{240, func() {}})
	slices.SortStableFunc(events, func(a, b event) int { return a.at - b.at })
	began := time.Now()
	for _, e := range events {
		select { // the picture's axis is real time
		case <-time.After(time.Until(began.Add(time.Duration(e.at) * time.Second))):
			e.do()
		case <-c.ctx.Done():
			c.t.Fatal(context.Cause(c.ctx))
		}
	}
}

// picturePanel is what the page draws.
type picturePanel struct {
	Title, Unit, Type string
	Bad               *float64
	Below, Stacked    bool
	Lines             []pictureLine
}

type pictureLine struct {
	Name   string
	Points [][2]float64 // seconds since the start, value
}

// ask runs the queries of the drawn panels.
func (p *prometheus) ask(from, to time.Time) (panels []picturePanel) {
	p.t.Helper()
	all := boardPanels(p.tenant)
	for _, title := range drawnPanels {
		at := slices.IndexFunc(all, func(b boardPanel) bool { return b.Title == title })
		if at < 0 {
			p.t.Errorf("there is no panel %q", title)
			continue
		}
		d := all[at].FieldConfig.Defaults
		x := picturePanel{Title: title, Type: all[at].Type, Unit: d.Unit, Stacked: d.Custom.Stacking.Mode == "normal", Lines: []pictureLine{}}
		for _, s := range d.Thresholds.Steps {
			if s.Value != nil {
				x.Bad, x.Below = s.Value, s.Color == "green"
			}
		}
		for _, target := range all[at].Targets {
			x.Lines = append(x.Lines, p.points(target.Expr, target.LegendFormat, from, to)...)
		}
		if len(x.Lines) == 0 {
			p.t.Errorf("the panel %q has no lines", title)
		}
		panels = append(panels, x)
	}
	return panels
}
