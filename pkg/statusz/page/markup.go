package page

import (
	"fmt"
	"html"
	"strings"
)

// markup is HTML: what m makes, and the driver's own style. The page is written with it and not with
// html/template, which looks up methods by name: for that the linker keeps every exported method of
// the whole program, and mayfly-node would be 4 MB larger.
type markup string

// m puts values into HTML that is written in the source. It escapes all that are not markup
// themselves, for texts and for attributes in quotes.
func m(format string, values ...any) markup {
	for i, v := range values {
		if _, is := v.(markup); !is {
			values[i] = html.EscapeString(fmt.Sprint(v))
		}
	}
	return markup(fmt.Sprintf(format, values...))
}

// when returns the markup of what a condition is true for.
func when(condition bool, then markup) markup {
	if condition {
		return then
	}
	return ""
}

// each returns the markup of all elements.
func each[T any](list []T, of func(T) markup) markup {
	var all strings.Builder
	for _, element := range list {
		all.WriteString(string(of(element)))
	}
	return markup(all.String())
}

// section is a part of the page with a table of these columns; nothing for an empty body.
func section(title, small string, body markup, columns ...column) markup {
	if body == "" {
		return ""
	}
	return m("<section>\n<h2>%v%v</h2>\n%v</section>\n", title, when(small != "", m(" <small>%v</small>", small)), table(body, columns...))
}

func table(body markup, columns ...column) markup {
	return m("<table>\n<thead><tr>%v</tr></thead>\n%v</table>\n", each(columns, column.head), body)
}

// column has a title, and numbers or times that are aligned as such.
type column struct {
	title, kind string
}

func (c column) head() markup {
	return m("<th%v>%v</th>", when(c.kind == number, ` class="number"`), c.title)
}

// The kinds of columns.
const (
	number = "number"
	date   = "time"
)

// cells are a row's, in the order of the columns.
func cells(columns []column, values ...any) markup {
	var all markup
	for i, c := range columns {
		all += m(`<td%v data-label="%v">%v</td>`, when(c.kind != "", m(` class="%v"`, c.kind)), c.title, values[i])
	}
	return all
}

// remark is a row of one cell below the row that it is about.
func remark(columns []column, what markup) markup {
	return m("<tr class=\"why\"><td colspan=\"%v\">%v</td></tr>", len(columns), what)
}

// state is a word in the colour of its mood.
func state(mood string, what markup) markup { return m(`<span class="state %v">%v</span>`, mood, what) }

// html is the moment as an element.
func (t moment) html() markup {
	if t.Text == "" {
		return ""
	}
	return m("<time%v>%v</time>", when(t.Title != "", m(` title="%v" datetime="%v"`, t.Title, t.Title)), t.Text)
}
