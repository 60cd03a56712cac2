package main

import "fmt"

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
