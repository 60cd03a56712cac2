package main

import (
	"fmt"
	"slices"
)

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
		Measured: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms; %s to Vault, %s to the API server", p.P50, p.P99, p.Vault.text(), verbs(p.API)),
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
	return []row{
		{What: "Start to ready, no volume", Measured: fmt.Sprintf("%.0f ms (class directory: %.0f ms)", ready, median(r.Dir.Ready)),
			Target: fmt.Sprintf("<= %d ms", targetReady), Met: ready <= targetReady},
		{What: fmt.Sprintf("Kill -9 and start with %d volumes", r.Size.Pods),
			Measured: fmt.Sprintf("ready after %.0f ms; %s to Vault, %s to the API server", r.Restart.Ready, r.Restart.Vault.text(), verbs(r.Restart.API)),
			Target:   fmt.Sprintf("<= %d ms, no request to Vault", targetReady),
			Met:      r.Restart.Ready <= targetReady && r.Restart.Vault.total() == 0},
		{What: fmt.Sprintf("Resident memory, %d volumes", r.Size.Pods), Measured: r.API.memory(),
			Target: fmt.Sprintf("<= %.0f MB together", targetMemory/1e6), Met: float64(r.API.RSS+r.API.Tmpfs) <= targetMemory},
		{What: fmt.Sprintf("Resident memory, %d volumes", timesMore*r.Size.Pods), Measured: r.Large.memory(),
			Target: fmt.Sprintf("<= %.0f MB together", targetLarge/1e6), Met: float64(r.Large.RSS+r.Large.Tmpfs) <= targetLarge},
		{What: fmt.Sprintf("Resident memory, %d volumes, with a class directory", r.Size.Pods), Measured: r.Dir.memory()},
		{What: "Driver's CPU time for all of the above", Measured: fmt.Sprintf("%.2f s", r.API.CPU/1000)},
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
