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
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/test/browser"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// scrapeInterval is that of the tests' Prometheus, in seconds.
const scrapeInterval = 2

// prometheus is Debian's, running until the case ends. It scrapes the driver and kubelet, and
// evaluates the alerts of deploy/.
type prometheus struct {
	*tenant
	url string
}

func startPrometheus(c *tenant) *prometheus {
	c.t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		c.t.Skip("Prometheus is not installed: on Debian, apt-get install prometheus")
	}
	config := testkit.Value(clientcmd.BuildConfigFromFlags("", c.node.Kubeconfig()))(c.t)
	dir := c.t.TempDir()
	for name, data := range map[string][]byte{"cert": config.CertData, "key": config.KeyData} {
		testkit.Must(c.t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	file, address := filepath.Join(dir, "prometheus.yml"), testkit.FreeAddress(c.t)
	testkit.Must(c.t, os.WriteFile(file, fmt.Appendf(nil, `global: {scrape_interval: %[1]ds, scrape_timeout: %[1]ds, evaluation_interval: %[1]ds}
rule_files: [%[2]q]
scrape_configs:
- job_name: %[3]q
  static_configs: [{targets: [%[4]q], labels: {instance: %[5]q}}]
- job_name: kubelet
  scheme: https
  tls_config: {ca_file: %[6]q, cert_file: cert, key_file: key}
  static_configs: [{targets: ["%[5]s:%[7]d"], labels: {instance: %[5]q}}]
`, scrapeInterval, deployFile(c, "alerts.yaml"), prometheusJob, c.driver.metricsAddress(), c.node.Name(), c.node.CAFile(), kubeletPort), 0o600))
	testkit.NewProcess(c.t, exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=warn"))
	p := &prometheus{tenant: c, url: "http://" + address}
	c.until("Prometheus to be ready", func(ctx context.Context) error {
		_, err := testkit.Page(ctx, p.url+"/-/ready")
		return err
	})
	c.until("Prometheus to scrape the driver and kubelet", func(ctx context.Context) error {
		var targets struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
		if err := p.get(ctx, "targets", nil, &targets); err != nil {
			return err
		}
		if len(targets.ActiveTargets) != 2 {
			return fmt.Errorf("it has the targets %+v", targets.ActiveTargets)
		}
		for _, t := range targets.ActiveTargets {
			if t.Health != "up" {
				return fmt.Errorf("%s is %s: %s", t.ScrapeURL, t.Health, t.LastError)
			}
		}
		return nil
	})
	return p
}

const kubeletPort = 10250

// prometheusJob is the name that Prometheus' operator makes for the chart's PodMonitor.
const prometheusJob = releaseNamespace + "/" + releaseName

func deployFile(c *tenant, name string) string {
	c.t.Helper()
	root := testkit.Value(toolcache.ModuleRoot())(c.t)
	return filepath.Join(root, "deploy", name)
}

// get asks Prometheus' API, and decodes the data of the answer.
func (p *prometheus) get(ctx context.Context, path string, query url.Values, data any) error {
	_, body, err := testkit.Get(ctx, p.url+"/api/v1/"+path+"?"+query.Encode())
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("decoding Prometheus' answer to %s: %w", path, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus' answer to %s %v: %s", path, query, answer.Error)
	}
	return nil
}

// boardPanel is a panel of the dashboard, as far as the tests use it.
type boardPanel struct {
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

// boardPanels are the panels of deploy/dashboard.json that have queries.
func boardPanels(c *tenant) []boardPanel {
	c.t.Helper()
	text := testkit.Value(os.ReadFile(deployFile(c, "dashboard.json")))(c.t)
	var board struct{ Panels []boardPanel }
	testkit.Must(c.t, json.Unmarshal(text, &board))
	board.Panels = slices.DeleteFunc(board.Panels, func(p boardPanel) bool { return p.Type == "row" })
	if len(board.Panels) < 25 {
		c.t.Fatalf("the dashboard has %d panels", len(board.Panels))
	}
	return board.Panels
}

// withVariables replaces the dashboard's variables by their defaults, as Grafana does: every node and
// provider.
func withVariables(expr string) string {
	return strings.NewReplacer("$__rate_interval", strconv.Itoa(8*scrapeInterval)+"s", "$job", prometheusJob, "$instance", ".*", "$provider", ".*").Replace(expr)
}

type alertRule struct{ Name, Query, Health, LastError string }

func (p *prometheus) alerts(ctx context.Context) (rules []alertRule, err error) {
	var data struct{ Groups []struct{ Rules []alertRule } }
	err = p.get(ctx, "rules", nil, &data)
	for _, g := range data.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules, err
}

// noPlugin are the metrics of the dashboard and the alerts that nothing on this node exposes: it
// has no provider plugin. pkg/telemetry's tests have some.
var noPlugin = []string{"mayfly_provider_plugin_up"}

// metricName is a metric in a query. hack/dashboard parses the dashboard's queries, and compares
// them with the driver's documented metrics and labels.
var metricName = regexp.MustCompile(`\b(?:mayfly|node|rotation|csi|process)_[a-z_]+|\bup\b`)

// prometheusAnswers has a real Prometheus scrape the driver and kubelet, and answer each query of
// the dashboard and the alerts, of metrics that are there.
func prometheusAnswers(c *tenant) {
	mount := c.ns + "-pki"
	testkit.Must(c.t, c.vault.EnablePKI(c.t.Context(), mount, "web"))
	c.issueFrom(mount, "1h", nil)
	c.run(newPod("reader", "exec sleep 100000", mounts("certificate"))) // a credential that expires

	p := startPrometheus(c)
	var queries []string
	for _, panel := range boardPanels(c) {
		for _, target := range panel.Targets {
			queries = append(queries, withVariables(target.Expr))
			testkit.Must(c.t, p.get(c.t.Context(), "query", url.Values{"query": {withVariables(target.Expr)}}, nil))
		}
	}
	c.until("Prometheus to evaluate the alerts", func(ctx context.Context) error {
		rules, err := p.alerts(ctx)
		if err == nil && len(rules) == 0 {
			err = fmt.Errorf("it has none")
		}
		for _, r := range rules {
			if r.Health != "ok" {
				err = fmt.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
		return err
	})
	rules := testkit.Value(p.alerts(c.t.Context()))(c.t)
	for _, r := range rules {
		queries = append(queries, r.Query)
	}
	var wanted []string
	for _, q := range queries {
		q = regexp.MustCompile(`"[^"]*"`).ReplaceAllString(q, `""`) // the values of labels
		wanted = append(wanted, metricName.FindAllString(q, -1)...)
	}
	slices.Sort(wanted)
	c.until("every metric of the dashboard and the alerts", func(ctx context.Context) error {
		var names []string
		err := p.get(ctx, "label/__name__/values", nil, &names)
		for _, name := range slices.Compact(wanted) {
			if strings.HasPrefix(name, "mayfly_failing_") {
				continue // of failing volumes, which another case may have; test/wire has one
			}
			if has := slices.Contains(names, name); err == nil && has == slices.Contains(noPlugin, name) {
				err = fmt.Errorf("metric %s exists: %t", name, has)
			}
		}
		return err
	})
	c.until("the driver's requests to the API server to be counted", func(ctx context.Context) error {
		var data struct{ Result []struct{} }
		err := p.get(ctx, "query", url.Values{"query": {`sum(mayfly_api_requests_total{code="2xx"}) > 0`}}, &data)
		if err == nil && len(data.Result) == 0 {
			err = fmt.Errorf("there are none")
		}
		return err
	})
}

// issueFrom makes the class certificate: a certificate of a PKI mount, with that lifetime.
func (c *tenant) issueFrom(mount, ttl string, change map[string]string) {
	c.t.Helper()
	testkit.Must(c.t, c.vault.Policy(c.t.Context(), c.ns+"-pki", fmt.Sprintf("path %q { capabilities = [\"update\"] }\n", mount+"/issue/web")))
	testkit.Must(c.t, c.vault.allowLogin(c.t.Context(), c.ns, map[string]any{"token_policies": c.ns + "," + c.ns + "-pki"}))
	objects := fmt.Sprintf("- {objectName: password, secretPath: %s/issue/web, method: POST, secretArgs: {common_name: web, ttl: %s}, secretKey: certificate}", mount, ttl)
	parameters := map[string]string{"roleName": c.ns, "objects": objects}
	maps.Copy(parameters, change)
	testkit.Must(c.t, c.createClass(c.t.Context(), newClass("certificate", parameters)))
}

// points are a query's results over a time, by the legend's text.
func (p *prometheus) points(expr, legend string, from, to time.Time) (lines []pictureLine) {
	p.t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	testkit.Must(p.t, p.get(p.t.Context(), "query_range", url.Values{
		"query": {withVariables(expr)}, "step": {strconv.Itoa(scrapeInterval)}, "start": {strconv.FormatInt(from.Unix(), 10)}, "end": {strconv.FormatInt(to.Unix(), 10)},
	}, &data))
	for _, r := range data.Result {
		l := pictureLine{Name: legend}
		for label, value := range r.Metric {
			l.Name = strings.ReplaceAll(l.Name, "{{"+label+"}}", value)
		}
		for _, v := range r.Values {
			value := testkit.Value(strconv.ParseFloat(v[1].(string), 64))(p.t)
			if value == value { // a quantile of no samples is NaN
				l.Points = append(l.Points, [2]float64{v[0].(float64) - float64(from.Unix()), value})
			}
		}
		if len(l.Points) > 0 {
			lines = append(lines, l)
		}
	}
	return lines
}

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
