//go:build picture

package wire

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/browser"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var picture = flag.String("picture", "../../docs/dashboard.png", "file of the picture")

// drawn are the panels of the picture, by title, for which what happens here has
// numbers: there is no kubelet and no API server.
var drawn = []string{
	"Nodes away", "Volumes", "Volumes failing", "Oldest content", "First credential ends in", "Circuits open",
	"Publishes, refreshes, rotations", "First publishes that failed", "Refreshes that failed", "Answers that are no success",
	"Requests by purpose", "Time until the first credential ends",
}

// TestPicture makes the picture of the dashboard: three drivers, each with a real
// Vault, live through rotations and an outage while Debian's Prometheus scrapes
// them. Each panel's own queries are asked of it, and a page draws the answers.
func TestPicture(t *testing.T) {
	b := browser.Start(t)
	var rigs []*rig
	for range 3 {
		r := newRig(t, func(c *node.Config) { c.MemoryBudget = 64 << 20 })
		testkit.Must(t, r.vault.EnablePKI(t.Context(), "pki", "web"))
		testkit.Must(t, r.vault.Policy(t.Context(), "web", `path "secret/data/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }`))
		r.class("secrets", "refreshInterval: 5s")
		r.manifest("certificate", "- {objectName: cert, secretPath: pki/issue/web, method: POST, secretArgs: {common_name: web, ttl: 120s}, secretKey: certificate}", "refreshInterval: 5s")
		rigs = append(rigs, r)
	}
	began := time.Now()
	prometheus := startPrometheus(t, rigs)
	live(t, rigs)
	panels := ask(t, prometheus, began, time.Now())
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
	text := cropped(t, b.Screenshot(), b.Eval("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom) + 14"))
	if len(text) > 150<<10 || len(b.Problems()) > 0 {
		t.Errorf("the picture has %d bytes, the browser says %v", len(text), b.Problems())
	}
	testkit.Must(t, os.WriteFile(*picture, text, 0o644))
}

// cropped ends a picture after so many lines.
func cropped(t *testing.T, picture []byte, lines string) []byte {
	t.Helper()
	height, err := strconv.Atoi(lines)
	testkit.Must(t, err)
	whole, err := png.Decode(bytes.NewReader(picture))
	testkit.Must(t, err)
	part := image.NewRGBA(image.Rect(0, 0, whole.Bounds().Dx(), min(height, whole.Bounds().Dy())))
	draw.Draw(part, part.Bounds(), whole, image.Point{}, draw.Src)
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	testkit.Must(t, encoder.Encode(&b, part))
	return b.Bytes()
}

// live is what happens, in seconds from the start.
func live(t *testing.T, rigs []*rig) {
	t.Helper()
	type event struct {
		at int
		do func(r *rig, n int)
	}
	var events []event
	for i := range 12 { // pods come one after the other
		events = append(events, event{5 + 8*i, func(r *rig, n int) {
			r.publish(r.pod(fmt.Sprintf("web-%d", i), "web", "secrets"))
			if i%3 == 0 {
				r.publish(r.pod(fmt.Sprintf("tls-%d", i), "web", "certificate"))
			}
		}})
	}
	for i, at := range []int{130, 160, 310} {
		events = append(events, event{at, func(r *rig, _ int) { r.put("db", strconv.Itoa(i)) }})
	}
	events = append(events, event{200, func(r *rig, _ int) { testkit.Must(t, r.vault.Seal(t.Context())) }})
	for at := 205; at < 260; at += 5 { // kubelet tries again
		events = append(events, event{at, func(r *rig, n int) { _ = r.Publish(t.Context(), r.pod("late", "web", "secrets")) }})
	}
	events = append(events, event{260, func(r *rig, _ int) { testkit.Must(t, r.vault.Unseal(t.Context())) }},
		event{270, func(r *rig, _ int) { r.publish(r.pod("late", "web", "secrets")) }})
	for at := 290; at < 330; at += 5 {
		events = append(events, event{at, func(r *rig, n int) {
			if n == 0 {
				_ = r.Publish(t.Context(), r.pod("stranger", "other", "secrets"))
			}
		}})
	}
	for i := range 6 {
		events = append(events, event{335 + 2*i, func(r *rig, _ int) {
			testkit.Must(t, r.Unpublish(t.Context(), kubelet.Pod{Namespace: "shop", Name: fmt.Sprintf("web-%d", i), UID: fmt.Sprintf("uid-web-%d", i), ServiceAccount: "web", Class: "secrets"}))
		}})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at - b.at })
	began := time.Now()
	for _, e := range append(events, event{360, func(*rig, int) {}}) {
		time.Sleep(time.Until(began.Add(time.Duration(e.at) * time.Second))) // what is drawn is what time does
		for n, r := range rigs {
			e.do(r, n)
		}
	}
}

func startPrometheus(t *testing.T, rigs []*rig) (address string) {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("needs Prometheus: on Debian, apt-get install prometheus")
	}
	dir := t.TempDir()
	config := "global: {scrape_interval: 2s, scrape_timeout: 2s}\nscrape_configs:\n- job_name: mayfly\n  static_configs:\n"
	for i, r := range rigs {
		config += fmt.Sprintf("  - {targets: [%q], labels: {instance: node-%c}}\n", r.health, 'a'+i)
	}
	file := filepath.Join(dir, "prometheus.yml")
	testkit.Must(t, os.WriteFile(file, []byte(config), 0o600))
	address = testkit.FreeAddress(t)
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=error")
	cmd.Stderr = os.Stderr
	testkit.Must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	testkit.Eventually(t, "Prometheus is ready", func() bool {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return "http://" + address
}

// panel is what the page draws.
type panel struct {
	Title, Unit, Type string
	Bad               *float64
	Below, Stacked    bool
	Lines             []line
}

type line struct {
	Name   string
	Points [][2]float64 // seconds since the start, value
}

// ask has Prometheus answer each panel's queries.
func ask(t *testing.T, prometheus string, from, to time.Time) (panels []panel) {
	t.Helper()
	text, err := os.ReadFile("../../charts/mayfly/files/dashboard.json")
	testkit.Must(t, err)
	var board struct {
		Panels []struct {
			Title, Type string
			FieldConfig struct {
				Defaults struct {
					Unit       string
					Thresholds struct {
						Steps []struct {
							Value *float64
							Color string
						}
					}
					Custom struct{ Stacking struct{ Mode string } }
				}
			}
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	testkit.Must(t, json.Unmarshal(text, &board))
	for _, title := range drawn {
		found := false
		for _, p := range board.Panels {
			if p.Title != title || p.Type == "row" || found {
				continue
			}
			found = true
			x := panel{Lines: []line{}, Title: p.Title, Unit: p.FieldConfig.Defaults.Unit, Type: p.Type, Stacked: p.FieldConfig.Defaults.Custom.Stacking.Mode == "normal"}
			for _, s := range p.FieldConfig.Defaults.Thresholds.Steps {
				if s.Value != nil {
					x.Bad, x.Below = s.Value, s.Color == "green"
				}
			}
			for _, q := range p.Targets {
				x.Lines = append(x.Lines, queryRange(t, prometheus, q.Expr, q.LegendFormat, from, to)...)
			}
			if len(x.Lines) == 0 {
				t.Errorf("the panel %q has no lines", title)
			}
			panels = append(panels, x)
		}
		if !found {
			t.Errorf("there is no panel %q", title)
		}
	}
	return panels
}

func queryRange(t *testing.T, prometheus, expr, legend string, from, to time.Time) (lines []line) {
	t.Helper()
	expr = strings.NewReplacer("$__rate_interval", "16s", "$job", "mayfly", "$instance", ".*", "$provider", "vault").Replace(expr)
	resp, err := http.PostForm(prometheus+"/api/v1/query_range", url.Values{
		"query": {expr}, "step": {"2"}, "start": {strconv.FormatInt(from.Unix(), 10)}, "end": {strconv.FormatInt(to.Unix(), 10)},
	})
	testkit.Must(t, err)
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	testkit.Must(t, json.NewDecoder(resp.Body).Decode(&answer))
	if answer.Error != "" {
		t.Fatalf("%s: %s", expr, answer.Error)
	}
	for _, r := range answer.Data.Result {
		name := legend
		for label, value := range r.Metric {
			name = strings.ReplaceAll(name, "{{"+label+"}}", value)
		}
		l := line{Name: name}
		for _, v := range r.Values {
			value, err := strconv.ParseFloat(v[1].(string), 64)
			testkit.Must(t, err)
			if math.IsNaN(value) { // a quantile of nothing
				continue
			}
			l.Points = append(l.Points, [2]float64{v[0].(float64) - float64(from.Unix()), value})
		}
		if len(l.Points) > 0 {
			lines = append(lines, l)
		}
	}
	return lines
}
