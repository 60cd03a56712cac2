package page

import (
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// html is the whole page.
func (v *view) html() markup {
	return m(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%v · Mayfly</title>
<style>%v</style>
</head>
<body>
%v<main>
%v%v%v%v%v%v%v%v</main>
</body>
</html>
`, v.Node.Name, markup(styleText), v.header(), v.failedMounts(), v.volumes(), v.stores(), v.plugins(), v.queue(), v.classes(), v.leaving(), v.setAside())
}

func (v *view) header() markup {
	fact := func(name string, what any) markup { return m("<div><dt>%v</dt><dd>%v</dd></div>\n", name, what) }
	volumes := m("%v%v", v.Node.Volumes, when(v.Node.Failing > 0, m(", %v", state("bad", m("%v failing", v.Node.Failing)))))
	return m(`<header>
<h1>%v <span class="quiet">· Mayfly</span></h1>
%v<dl class="facts">
%v%v%v%v%v%v%v</dl>
</header>
`, v.Node.Name, when(v.Node.NotReady != "", m("<p class=\"bad\">The driver does not serve kubelet: %v</p>\n", v.Node.NotReady)),
		fact("Driver", v.Node.Driver), fact("Version", v.Node.Version), fact("Up for", v.Uptime.html()), fact("Volumes", volumes),
		fact("Memory for tenants", v.Memory), fact("Now", v.Now.Text), fact("For programs", markup(`<a href="/status">/status</a>`)))
}

func (v *view) failedMounts() markup {
	columns := []column{{"Pod", ""}, {"Class", ""}, {"Reason", ""}, {"Times", number}, {"Last", date}}
	return section("Failed mounts", "of the last hour, and credentials whose end was given up", each(v.Failed, func(f failureRow) markup {
		return m("<tbody><tr>%v</tr>\n%v</tbody>\n",
			cells(columns, pod(f.Namespace, f.Pod), f.Class, state("bad", m("%v", f.Reason)), f.Times, f.When.html()), remark(columns, m("%v", f.Message)))
	}), columns...)
}

func pod(namespace, name string) markup { return m("<span>%v/%v</span>", namespace, name) }

func (v *view) volumes() markup {
	shown := markup("none")
	if v.Total > 0 {
		shown = m("%v to %v of %v, those that fail first", v.From, v.To, v.Total)
	}
	input := func(label, name, value string) markup {
		return m("<label>%v<input name=\"%v\" value=\"%v\"></label>\n", label, name, value)
	}
	columns := []column{{"Pod", ""}, {"Class", ""}, {"State", ""}, {"Objects", ""}, {"Age", date}, {"Refreshed", date}, {"Next look", date}, {"Credential ends", date}}
	rows := each(v.Rows, func(r row) markup { return r.html(columns) })
	link := func(to, title string) markup { return when(to != "", m("<a href=\"%v\">%v</a>", to, title)) }
	return m(`<section>
<h2>Volumes <small>%v</small></h2>
<form method="get">
%v%v%v<button>Show</button>
</form>
%v%v</section>
`, shown, input("Namespace", "namespace", v.Namespace), input("Pod", "pod", v.Pod), input("Class", "class", v.Class),
		when(rows != "", table(rows, columns...)),
		when(v.Earlier+v.Later != "", m("<nav>%v%v</nav>\n", link(v.Earlier, "Earlier"), link(v.Later, "Later"))))
}

func (r row) html(columns []column) markup {
	objects, next := markup(""), r.Next.html()
	switch {
	case r.Folded:
		objects = m("<details><summary>%v</summary>%v</details>", r.Count, r.objects())
	case len(r.Listed) > 0:
		objects = r.objects()
	}
	if r.Refreshing {
		next = "under way"
	}
	var why markup
	if r.AsOf.Text != "" {
		why += remark(columns, m("The store was away when the pod started: the content was read %v.", r.AsOf.html()))
	}
	if r.AnsweredBy != "" {
		why += remark(columns, m("The store's first address is away: the second answers, %v.", r.AnsweredBy))
	}
	if f := r.Failure; f != nil {
		why += remark(columns, m(`%v%v <span class="quiet">%v%v in a row</span>`,
			when(f.Reason != "", m("%v: ", f.Reason)), f.Message, when(r.Why.Text != "", m("%v, ", r.Why.html())), r.Failures))
	}
	return m("<tbody><tr>%v</tr>\n%v</tbody>\n", cells(columns, pod(r.Namespace, r.Pod), r.Volume.Class, state(r.Mood, m("%v", r.State)), objects,
		r.Age.html(), r.Refreshed.html(), next, r.Expires.html()), why)
}

func (r row) objects() markup {
	return m("<ul>%v%v</ul>", each(r.Listed, func(o object) markup {
		return m("<li>%v <code>%v</code>%v</li>", o.ID, o.Version, when(o.Expires.Text != "", m(` <span class="quiet">ends %v</span>`, o.Expires.html())))
	}), when(r.More > 0, m(`<li class="quiet">%v more</li>`, r.More)))
}

func (v *view) stores() markup {
	columns := []column{{"Provider", ""}, {"Address", ""}, {"Circuits", ""}, {"Needed", date}}
	return section("Stores", "servers that volumes needed, and what is left alone for a while after failures", each(v.StoreRows, func(s storeRow) markup {
		circuits := state("good", "none open")
		if s.OpenCircuits > 0 {
			circuits = state("bad", m("%v open", s.OpenCircuits))
		}
		return m("<tbody><tr>%v</tr>\n%v</tbody>\n", cells(columns, s.Provider, s.Address, circuits, s.Used.html()), each(s.Open, func(c circuitRow) markup {
			return remark(columns, m("<span>Holds up %v for %v, asks again %v: %v</span>", c.For, c.Begun.html(), c.Probe.html(), c.Message))
		}))
	}), columns...)
}

// rows are those of a table without remarks.
func rows[T any](list []T, columns []column, values func(T) []any) markup {
	if len(list) == 0 {
		return ""
	}
	return m("<tbody>%v</tbody>", each(list, func(element T) markup { return m("<tr>%v</tr>\n", cells(columns, values(element)...)) }))
}

func (v *view) plugins() markup {
	columns := []column{{"Provider", ""}, {"State", ""}}
	return section("Provider plugins", "", rows(v.Plugins, columns, func(p statusz.Plugin) []any {
		if p.Answering {
			return []any{p.Name, state("good", "answers")}
		}
		return []any{p.Name, state("bad", "does not answer")}
	}), columns...)
}

func (v *view) queue() markup {
	columns := []column{{"Store", ""}, {"Namespaces", number}, {"Waiting", number}, {"Overdue", number}, {"Running", number}, {"Late", number}, {"Next", date}}
	return section("Queue", "refreshes by store", rows(v.QueueRows, columns, func(q queueRow) []any {
		return []any{q.Store, q.Namespaces, q.Waiting, q.Overdue, q.Running, q.Late, q.Next.html()}
	}), columns...)
}

func (v *view) classes() markup {
	columns := []column{{"Class", ""}, {"Provider", ""}, {"Volumes", number}, {"Failing", number}, {"Versions", ""}}
	return section("Classes", "in use", rows(v.Classes, columns, func(c statusz.Class) []any {
		var versions markup
		for i, version := range c.Versions {
			versions += when(i > 0, ", ") + m("<code>%v</code>", version)
		}
		return []any{pod(c.Namespace, c.Name), c.Provider, c.Volumes, c.Failing, m("<span>%v</span>", versions)}
	}), columns...)
}

func (v *view) leaving() markup {
	columns := []column{{"Pod", ""}, {"Class", ""}, {"Providers", ""}, {"Tries", number}, {"Since", date}, {"Next", date}}
	return section("Credentials to end", string(m("of %v volumes that are gone or changed their provider", v.Leavings)), rows(v.LeavingRows, columns, func(l leavingRow) []any {
		return []any{pod(l.Namespace, l.Pod), l.Class, m("<span>%v</span>", strings.Join(l.Providers, ", ")), m("%v of %v", l.Tries, l.MaxTries), l.Begun.html(), l.Next.html()}
	}), columns...)
}

func (v *view) setAside() markup {
	files := each(v.SetAside, func(file string) markup { return m("<li><code>%v</code></li>", file) })
	return when(files != "", m("<section>\n<h2>Records set aside <small>could not be read; kubelet's next call makes new ones</small></h2>\n<ul>%v</ul>\n</section>\n", files))
}
