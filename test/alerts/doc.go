// Package alerts plays the alerts of charts/mayfly/files/alerts.yaml with
// Prometheus' own promtool: each fires on the series that it is for, and none
// does on a healthy day.
package alerts
