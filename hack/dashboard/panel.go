package main

import (
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// panel is a graph or, where it says from when a number is bad, a single number.
type panel struct {
	title, description, unit string
	width                    uint32
	queries                  []target
	// bad is from where on a number is red, and below where the lower is the worse;
	// nil for a graph.
	bad   *float64
	below bool
	// plain numbers are neither good nor bad.
	plain bool
	// stacked graphs add up.
	stacked bool
}

// target is a query with the names of its lines.
type target struct{ legend, expr string }

const (
	graphHeight  = 8
	numberHeight = 4
)

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	if p.bad != nil || p.plain {
		return p.number(id)
	}
	return p.graph(id)
}

func (p panel) graph(id uint32) cog.Builder[dashboard.Panel] {
	b := timeseries.NewPanelBuilder().Id(id).
		Title(p.title).Description(p.description).Unit(p.unit).Datasource(source()).
		Height(graphHeight).Span(p.width).
		Min(0).LineWidth(1.5).FillOpacity(8).ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().
			ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).Calcs([]string{})).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	if p.stacked {
		b.FillOpacity(30).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal).Group("A"))
	}
	for _, q := range p.targets(false) {
		b.WithTarget(q)
	}
	return b
}

func (p panel) number(id uint32) cog.Builder[dashboard.Panel] {
	steps := []dashboard.Threshold{{Color: "green"}}
	switch {
	case p.plain:
		steps[0].Color = "text"
	case p.below:
		steps = []dashboard.Threshold{{Color: "red"}, {Value: p.bad, Color: "green"}}
	default:
		steps = append(steps, dashboard.Threshold{Value: p.bad, Color: "red"})
	}
	b := stat.NewPanelBuilder().Id(id).
		Title(p.title).Description(p.description).Unit(p.unit).Datasource(source()).
		Height(numberHeight).Span(p.width).NoValue("none").
		GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeValue).Orientation(common.VizOrientationAuto).
		Thresholds(dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}).Values(false))
	for _, q := range p.targets(true) {
		b.WithTarget(q)
	}
	return b
}

func (p panel) targets(now bool) []cog.Builder[variants.Dataquery] {
	var all []cog.Builder[variants.Dataquery]
	for i, q := range p.queries {
		t := prometheus.NewDataqueryBuilder().
			RefId(string(rune('A' + i))).Datasource(source()).EditorMode(prometheus.QueryEditorModeCode).
			Expr(expand(q.expr)).LegendFormat(q.legend)
		if now {
			t.Instant()
		} else {
			t.Range()
		}
		all = append(all, t)
	}
	return all
}

// expand writes out what every query has: {} stands for the chosen drivers,
// {provider} for them and the chosen providers, in either with further matchers.
func expand(expr string) string {
	const ours = `{job=~"$job", instance=~"$instance"`
	return strings.NewReplacer(
		"{provider}", ours+`, provider=~"$provider"}`,
		"{provider, ", ours+`, provider=~"$provider", `,
		"{}", ours+"}",
		"{, ", ours+", ",
	).Replace(expr)
}
