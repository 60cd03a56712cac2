// Command dashboard prints the Grafana dashboard of charts/mayfly/files, which
// make generate keeps: it is built here, in Go, so that every query is parsed and
// held to the metrics that there are.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func write() error {
	board, err := build()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(board, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(text))
	return err
}

func build() (dashboard.Dashboard, error) {
	b := dashboard.NewDashboardBuilder("Mayfly").
		Uid("mayfly").
		Description("Pods' secrets as files: the fleet, what fails and why, stores, credentials and nodes. Alerts and their runbooks are in the chart too.").
		Tags([]string{"mayfly", "secrets", "csi"}).
		Readonly().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Time("now-6h", "now").
		Refresh("1m").
		Timezone("browser")
	for _, v := range variables() {
		b.WithVariable(v)
	}
	id := uint32(0)
	next := func() uint32 { id++; return id }
	for _, row := range rows() {
		b.WithRow(dashboard.NewRowBuilder(row.title).Id(next()))
		for _, p := range row.panels {
			b.WithPanel(p.build(next()))
		}
	}
	return b.Build()
}
