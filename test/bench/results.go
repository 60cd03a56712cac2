package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// results is everything that was measured. Times are milliseconds, memory is
// bytes.
type results struct {
	Machine machine `json:"machine"`
	Size    size    `json:"size"`

	First firstPublishes `json:"firstPublishes"`
	// Told is the requests to the API server for all pods' new volumes, up to the last pod status.
	Told      map[string]int `json:"requestsToAPIServerForNewVolumes"`
	Republish republished    `json:"republish"`
	ChangeOne changed        `json:"changeOneServiceAccount"`
	ChangeAll changed        `json:"changeAsManyServiceAccounts"`
	Restart   restarted      `json:"restart"`
	Life      life           `json:"wholeLife"`
	Synced    synced         `json:"synced"`
	Observed  observed       `json:"observed"`
	// API has the classes from an API server, Dir from a directory.
	API process `json:"processWithAPIServer"`
	// Large is a driver with timesMore as many volumes.
	Large process `json:"processWithManyVolumes"`
	Dir   process `json:"processWithClassDir"`

	RestOne rested `json:"steadyStateOneServiceAccount"`
	RestAll rested `json:"steadyStateAsManyServiceAccounts"`
	Outage  outage `json:"outage"`
	// Plugin is this project's provider plugin.
	Plugin pluginTimes `json:"plugin"`
	// Akeyless is on a gateway that asks Akeyless' service for every answer,
	// AkeylessCached on one that asks it for logins alone.
	Akeyless       firstPublishes `json:"akeylessFirstPublishes"`
	AkeylessCached firstPublishes `json:"akeylessFirstPublishesCached"`
	Binary         binary         `json:"binary"`

	config config
}

// size repeats the flags that say how much was done.
type size struct {
	Pods      int     `json:"pods"`
	AtOnce    int     `json:"atOnce"`
	Rounds    int     `json:"rounds"`
	Classes   int     `json:"unrelatedClasses"`
	APIServer string  `json:"apiServer"`
	Republish int     `json:"republishesPerVolume"`
	Interval  float64 `json:"intervalMS"`
	Short     bool    `json:"short"`

	SteadyInterval  float64 `json:"steadyIntervalMS"`
	SteadyIntervals int     `json:"steadyIntervals"`
	Outage          float64 `json:"outageMS"`
	AkeylessLatency float64 `json:"akeylessLatencyMS"`
	AkeylessCached  float64 `json:"akeylessCachedLatencyMS"`
}

// firstPublishes has one time for each round.
type firstPublishes struct {
	Floor []float64 `json:"floorMS"`
	// Many has a service account for each pod, One has one for all.
	Many publishes `json:"asManyServiceAccounts"`
	One  publishes `json:"oneServiceAccount"`
	// Alone is Many through the driver's provider package alone, in the
	// benchmark's process; empty where that was not measured.
	Alone publishes `json:"providerPackageAlone"`
	// Cold is the first round of a driver just started, which is not counted.
	Cold          float64  `json:"coldMS"`
	FloorRequests requests `json:"floorRequests"`
}

type publishes struct {
	Wall []float64 `json:"wallMS"`
	CPU  []float64 `json:"driverCPUMS"`
	// Requests, to the store, and API are those of the last round.
	Requests requests       `json:"requestsToStore"`
	API      map[string]int `json:"requestsToAPIServer"`
}

// republished is a republish with nothing due, one at a time. Floor is the median of
// calls that do nothing.
type republished struct {
	Floor float64 `json:"floorMS"`
	Calls int     `json:"calls"`
	P50   float64 `json:"p50MS"`
	P99   float64 `json:"p99MS"`
	spent
}

// changed is a change in the store while all volumes are published.
type changed struct {
	AllNew   float64 `json:"allNewMS"`
	Secrets  int     `json:"distinctSecrets"`
	Accounts int     `json:"serviceAccounts"`
	spent
}

// restarted is a start after kill -9 with all volumes published.
type restarted struct {
	Ready float64 `json:"readyMS"`
	spent
}

// rested is some intervals without a change.
type rested struct {
	Accounts int `json:"serviceAccounts"`
	// Pairs are the distinct pairs of identity and secret; Least and Most is
	// how often one of them was read.
	Pairs int `json:"pairs"`
	Least int `json:"leastReadsOfAPair"`
	Most  int `json:"mostReadsOfAPair"`
	spent
}

// outage is a time in which the store answers 503.
type outage struct {
	Volumes  int     `json:"volumes"`
	Accounts int     `json:"serviceAccounts"`
	Interval float64 `json:"intervalMS"`
	Lasted   float64 `json:"lastedMS"`
	// Requests reached the store in that time; Most of them within one second,
	// which began at MostAt, and MostLater once a second had passed since the
	// first failed.
	Requests  int     `json:"requests"`
	Most      int     `json:"mostInOneSecond"`
	MostAt    float64 `json:"mostInOneSecondAtMS"`
	MostLater int     `json:"mostInOneSecondLater"`
	// AllFresh is from the store's return to the last volume's new content.
	AllFresh float64 `json:"allFreshMS"`
	// Vault is the requests to Vault from the beginning until then, and CPU the driver's time.
	Vault requests `json:"requestsToVault"`
	CPU   float64  `json:"driverCPUMS"`
}

// mean is the number of requests a second.
func (o outage) mean() float64 {
	if o.Lasted == 0 {
		return 0
	}
	return float64(o.Requests) / o.Lasted * 1000
}

// pluginTimes are medians of calls in turn, one at a time.
type pluginTimes struct {
	Calls   int     `json:"calls"`
	Bare    float64 `json:"bareMountMS"`
	Fetch   float64 `json:"providerPackageMS"`
	Publish float64 `json:"publishMS"`
	// Remembered is a publish of Vault's secrets that the driver has read for
	// another pod just before.
	Remembered float64 `json:"publishFromMemoryMS"`
}

// binary is the program that was measured.
type binary struct {
	Bytes int64  `json:"bytes"`
	Arch  string `json:"arch"`
	// Given says that it was not built here.
	Given bool `json:"given"`
}

// process is a driver's program and resource use.
type process struct {
	Ready []float64 `json:"readyMS"` // of starts with no volume
	// Memory with all volumes published: resident now and at most, and the
	// proportional set size, 0 if it cannot be read.
	RSS  int64 `json:"rssBytes"`
	Peak int64 `json:"peakRSSBytes"`
	PSS  int64 `json:"pssBytes"`
	// Tmpfs is the size of the volumes and the driver's state: not the process's memory, but
	// charged to its memory cgroup, since it wrote them.
	Tmpfs int64 `json:"tmpfsBytes"`
	// CPU is all that the process used.
	CPU float64 `json:"cpuMS"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// median of an even number is the mean of the two in the middle; of none, 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile is the nearest rank in a sorted list.
func percentile[T cmp.Ordered](sorted []T, share float64) T {
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// spread is the least and the greatest ratio of two series, round by round.
func spread(values, floor []float64) (low, high float64) {
	for i, v := range values {
		if i >= len(floor) || floor[i] == 0 {
			break
		}
		ratio := v / floor[i]
		if low == 0 || ratio < low {
			low = ratio
		}
		high = max(high, ratio)
	}
	return low, high
}

func (r *results) rows() []row {
	if only := alone(r.config.only); only != nil {
		return append(only.rows(r), r.binaryRow())
	}
	n := r.Size.Pods
	first := r.First
	rows := []row{
		{What: fmt.Sprintf("Floor: the bare work of %d first publishes", n), Measured: fmt.Sprintf("%.0f ms; %s", median(first.Floor), first.FloorRequests)},
		first.row(fmt.Sprintf("%d first publishes, %s", n, plural(n, "service account")), first.Many, targetMany, n, 2*n),
		first.row(fmt.Sprintf("%d first publishes, 1 service account", n), first.One, targetOne, 1, len(secrets(steady))),
		{What: "First publishes of a driver just started, cold connections", Measured: fmt.Sprintf("%.0f ms", first.Cold)},
		{What: fmt.Sprintf("Driver's CPU time for %d first publishes", n), Measured: fmt.Sprintf("%.0f ms; with 1 service account %.0f ms", median(first.Many.CPU), median(first.One.CPU))},
		{What: "Requests to the API server meanwhile", Measured: verbs(first.Many.API)},
		{What: "The same until every pod status is written", Measured: verbs(r.Told)},
		r.republishRow(),
		r.changeRow(r.ChangeOne), r.changeRow(r.ChangeAll),
	}
	return slices.Concat(rows, r.processRows(), []row{r.lifeRow(), r.syncedRow(), r.observedRow(), r.restRow(r.RestOne), r.restRow(r.RestAll)}, r.outageRows(), r.pluginRows(), r.akeylessRows(), []row{r.binaryRow()})
}

// row compares with the floor; without a target it is for information.
func (f firstPublishes) row(what string, p publishes, target float64, logins, reads int) row {
	ratio := median(p.Wall) / median(f.Floor)
	low, high := spread(p.Wall, f.Floor)
	x := row{What: what, Measured: fmt.Sprintf("%.0f ms = %.2f x floor (rounds %.2f to %.2f); %s", median(p.Wall), ratio, low, high, p.Requests)}
	if target > 0 {
		x.Target = fmt.Sprintf("<= %.2f x floor, %s, %s", target, plural(logins, "login"), plural(reads, "read"))
		x.Met = ratio <= target && p.Requests.Logins <= logins && p.Requests.Reads <= reads
	}
	return x
}

func (r *results) republishRow() row {
	p := r.Republish
	return row{
		What:     fmt.Sprintf("Republish with nothing due, %d calls", p.Calls),
		Measured: fmt.Sprintf("p50 %.2f ms, of which %.2f ms are a call that does nothing, p99 %.2f ms; %s to Vault, %s to the API server", p.P50, p.Floor, p.P99, p.Vault.text(), verbs(p.API)),
		Target:   fmt.Sprintf("p50 <= %.1f ms, no request", targetP50),
		Met:      p.P50 <= targetP50 && p.Vault.total() == 0 && len(p.API) == 0,
	}
}

func (r *results) changeRow(c changed) row {
	reads := c.Secrets * c.Accounts
	return row{
		What:     fmt.Sprintf("Change in the store, %d volumes, %s, interval %.0f s", r.Size.Pods, plural(c.Accounts, "service account"), r.Size.Interval/1000),
		Measured: fmt.Sprintf("all new after %.2f s; %s; driver's CPU time %.0f ms", c.AllNew/1000, c.Vault, c.CPU),
		Target:   fmt.Sprintf("interval + 2 s, %s (one for each secret and account)", plural(reads, "read")),
		Met:      c.AllNew <= r.Size.Interval+targetOverdue && c.Vault.Reads <= reads,
	}
}

func (r *results) processRows() []row {
	ready := median(r.API.Ready)
	rows := []row{
		{What: "Start to ready, no volume", Measured: fmt.Sprintf("%.0f ms (class directory: %.0f ms)", ready, median(r.Dir.Ready)),
			Target: fmt.Sprintf("<= %d ms", targetReady), Met: ready <= targetReady},
		{What: fmt.Sprintf("Kill -9 and start with %d volumes", r.Size.Pods),
			Measured: fmt.Sprintf("ready after %.0f ms; %s to Vault, %s to the API server", r.Restart.Ready, r.Restart.Vault.text(), verbs(r.Restart.API)),
			Target:   fmt.Sprintf("<= %d ms, no request to Vault", targetReady),
			Met:      r.Restart.Ready <= targetReady && r.Restart.Vault.total() == 0},
	}
	return append(append(rows, r.memoryRows()...),
		row{What: "Driver's CPU time for all of the above", Measured: fmt.Sprintf("%.2f s", r.API.CPU/1000)})
}

func (r *results) memoryRows() []row {
	return []row{
		{What: fmt.Sprintf("Resident memory, %d volumes", r.Size.Pods), Measured: r.API.memory(),
			Target: fmt.Sprintf("<= %.0f MB together", targetMemory/1e6), Met: float64(r.API.RSS+r.API.Tmpfs) <= targetMemory},
		{What: fmt.Sprintf("Resident memory, %d volumes", timesMore*r.Size.Pods), Measured: r.Large.memory(),
			Target: fmt.Sprintf("<= %.0f MB together", targetLarge/1e6), Met: float64(r.Large.RSS+r.Large.Tmpfs) <= targetLarge},
		{What: fmt.Sprintf("Resident memory, %d volumes, with a class directory", r.Size.Pods), Measured: r.Dir.memory()},
	}
}

func (p process) memory() string {
	text := fmt.Sprintf("%.1f MB (at most %.1f MB", float64(p.RSS)/1e6, float64(p.Peak)/1e6)
	if p.PSS > 0 {
		text += fmt.Sprintf(", PSS %.1f MB", float64(p.PSS)/1e6)
	}
	return text + fmt.Sprintf("); %.1f MB more in tmpfs", float64(p.Tmpfs)/1e6)
}

// text is for sentences.
func (r requests) text() string {
	if r.total() == 0 {
		return "no request"
	}
	return r.String()
}

// restRow reports how often each pair of identity and secret was read: the sum could hide that one
// was read instead of another.
func (r *results) restRow(s rested) row {
	intervals := r.Size.SteadyIntervals
	least, most := expected(intervals)
	return row{
		What: fmt.Sprintf("Steady state, %d volumes, %s, %d intervals of %s", r.Size.Pods, plural(s.Accounts, "service account"),
			intervals, seconds(r.Size.SteadyInterval)),
		Measured: fmt.Sprintf("%s: %.2f an interval for each of %d pairs of identity and secret, each pair %s in all; %s to the API server; driver's CPU time %.0f ms",
			s.Vault, float64(s.Vault.Reads)/float64(max(1, s.Pairs*intervals)), s.Pairs, fromTo(s.Least, s.Most), verbs(s.API), s.CPU),
		Target: fmt.Sprintf("a read an interval for each pair (in all %s), nothing else, no API write", fromTo(least, most)),
		Met:    s.Least >= least && s.Most <= most && s.Vault.total() == s.Vault.Reads && writes(s.API) == 0,
	}
}

func fromTo(least, most int) string {
	if least == most {
		return plural(least, "time")
	}
	return fmt.Sprintf("%d to %d times", least, most)
}

// seconds writes milliseconds without needless zeros.
func seconds(ms float64) string { return fmt.Sprintf("%g s", ms/1000) }

func (r *results) outageRows() []row {
	o := r.Outage
	return []row{
		{
			What: fmt.Sprintf("Vault answers 503 for %s, %d volumes, %s, interval %s", seconds(r.Size.Outage), o.Volumes,
				plural(o.Accounts, "service account"), seconds(o.Interval)),
			Measured: fmt.Sprintf("%s reached it, %.2f a second; at most %d in any one second (from %.1f s on), %d once the first second of failures was over",
				plural(o.Requests, "request"), o.mean(), o.Most, o.MostAt/1000, o.MostLater),
			Target: fmt.Sprintf("<= %.0f a second on average", targetRate),
			Met:    o.mean() <= targetRate,
		},
		{
			What:     "After its return, until what changed meanwhile is in all of these volumes",
			Measured: fmt.Sprintf("%.2f s; %s from the beginning of the outage until then; driver's CPU time %.0f ms", o.AllFresh/1000, o.Vault, o.CPU),
			Target:   fmt.Sprintf("<= %s", seconds(targetFresh)),
			Met:      o.AllFresh <= targetFresh,
		},
	}
}

func (r *results) pluginRows() []row {
	p := r.Plugin
	added := func(what string, whole float64) row {
		return row{
			What:     what,
			Measured: fmt.Sprintf("p50 %.2f ms = %.2f ms more", whole, whole-p.Bare),
			Target:   fmt.Sprintf("<= %.0f ms more", targetPlugin),
			Met:      whole-p.Bare <= targetPlugin,
		}
	}
	publish := added("A whole publish with the plugin: CSI call, class, Mount call, tmpfs, files, record", p.Publish)
	publish.Measured += fmt.Sprintf("; the driver's publishes that ask nobody take %.2f ms", p.Remembered)
	return []row{
		{What: fmt.Sprintf("Plugin's own time: its bare Mount call, %d calls", p.Calls), Measured: fmt.Sprintf("p50 %.2f ms", p.Bare)},
		added("The same through the driver's provider package alone", p.Fetch),
		publish,
	}
}

func (r *results) akeylessRows() []row {
	asked := fmt.Sprintf("Akeyless' service, %g ms an answer", r.Size.AkeylessLatency)
	var rows []row
	for _, g := range []struct {
		does  string
		first firstPublishes
	}{
		{"asks " + asked, r.Akeyless},
		{fmt.Sprintf("has the secrets in its cache, %g ms an answer, and asks for logins %s", r.Size.AkeylessCached, asked), r.AkeylessCached},
	} {
		n := r.Size.Pods
		rows = append(rows,
			row{What: fmt.Sprintf("Floor on the double of an Akeyless gateway that %s: the bare work of %d first publishes", g.does, n),
				Measured: fmt.Sprintf("%.0f ms; %s", median(g.first.Floor), g.first.FloorRequests)},
			g.first.row(fmt.Sprintf("The same through the driver's provider package alone, %s", plural(n, "service account")), g.first.Alone, targetMany, n, 2*n),
			g.first.row(fmt.Sprintf("%d first publishes with it, %s", n, plural(n, "service account")), g.first.Many, targetMany, n, 2*n),
			g.first.row(fmt.Sprintf("%d first publishes with it, 1 service account", n), g.first.One, 0, 0, 0),
		)
	}
	return rows
}

func (r *results) binaryRow() row {
	what := fmt.Sprintf("Size of the binary, %s, stripped", r.Binary.Arch)
	if r.Binary.Given {
		what = "Size of the binary that was given"
	}
	return row{What: what, Measured: fmt.Sprintf("%.1f MB", float64(r.Binary.Bytes)/1e6)}
}
