package main

import "fmt"

type row struct {
	title  string
	panels []panel
}

func rows() []row { return []row{fleet(), failures(), storeRow(), times(), credentials(), nodes()} }

func one(expr string) []target { return []target{{"", expr}} }

func fleet() row {
	return row{"The fleet", []panel{
		{title: "Nodes away", description: "Drivers that Prometheus cannot reach. On such a node no pod with secrets starts or ends; those that run keep their files.", unit: "short", width: 4,
			queries: one(`count(up{} == 0) or vector(0)`), bad: ptr(1.0)},
		{title: "Volumes", description: "Mounted volumes of all chosen nodes.", unit: "short", width: 4, queries: one(`sum(mayfly_volumes{})`), plain: true},
		{title: "Volumes failing", description: "Volumes whose last refresh failed. They keep their last good content.", unit: "short", width: 4, queries: one(`sum(mayfly_volumes_failing{})`), bad: ptr(1.0)},
		{title: "Oldest content", description: "How long ago the volume that was not fresh for longest was last read from its store.", unit: "s", width: 4,
			queries: one(`max(time() - mayfly_oldest_success_timestamp_seconds{})`), bad: ptr(3600.0)},
		{title: "First credential ends in", description: "Time until the first credential in a volume ends, unless it is renewed before; none without such credentials.", unit: "s", width: 4,
			queries: one(`min(mayfly_next_expiry_timestamp_seconds{} - time())`), bad: ptr(600.0), below: true},
		{title: "Circuits open", description: "Servers, namespaces or paths of stores that fail and are tried once in a while only.", unit: "short", width: 4,
			queries: one(`sum(mayfly_store_circuits_open{provider})`), bad: ptr(1.0)},
		{title: "Volumes", description: "All volumes, those whose last refresh failed, and gone ones whose credentials are yet to be revoked.", unit: "short", width: 12, queries: []target{
			{"volumes", `sum(mayfly_volumes{})`}, {"failing", `sum(mayfly_volumes_failing{})`}, {"waiting for revocation", `sum(mayfly_releases_pending{})`},
		}},
		{title: "Publishes, refreshes, rotations", description: "First publishes and refreshes that succeeded, the refreshes among them that wrote new content, and what failed, each second.", unit: "ops", width: 12, queries: []target{
			{"publishes", `sum(rate(node_publish_total{provider}[$__rate_interval]))`},
			{"refreshes", `sum(rate(rotation_reconcile_total{provider}[$__rate_interval]))`},
			{"rotations", `sum(rate(mayfly_rotations_total{provider}[$__rate_interval]))`},
			{"failed publishes", `sum(rate(node_publish_error_total{provider}[$__rate_interval]))`},
			{"failed refreshes", `sum(rate(rotation_reconcile_error_total{provider}[$__rate_interval]))`},
		}},
	}}
}

func failures() row {
	return row{"Failures by reason", []panel{
		{title: "First publishes that failed", description: "Pods wait in ContainerCreating meanwhile. docs/operating.md says what each reason means.", unit: "ops", width: 8, stacked: true,
			queries: []target{{"{{provider}} {{error_type}}", `sum by (provider, error_type) (rate(node_publish_error_total{provider}[$__rate_interval])) > 0`}}},
		{title: "Refreshes that failed", description: "The volumes keep their last good content.", unit: "ops", width: 8, stacked: true,
			queries: []target{{"{{provider}} {{error_type}}", `sum by (provider, error_type) (rate(rotation_reconcile_error_total{provider}[$__rate_interval])) > 0`}}},
		{title: "Failed calls, as kubelet sees them", description: "kubelet's own count, by method and gRPC code. It alone has the calls that fail because the driver is away.", unit: "ops", width: 8, stacked: true,
			queries: []target{{"{{method_name}} {{grpc_status_code}}", `sum by (method_name, grpc_status_code) (rate(csi_operations_seconds_count{driver_name="secrets-store.csi.k8s.io", grpc_status_code!="OK"}[$__rate_interval])) > 0`}}},
	}}
}

func storeRow() row {
	return row{"Stores", []panel{
		{title: "Requests by purpose", description: "Requests of the built-in providers to their stores, retries included.", unit: "reqps", width: 8, stacked: true,
			queries: []target{{"{{provider}} {{operation}}", `sum by (provider, operation) (rate(mayfly_store_requests_total{provider}[$__rate_interval])) > 0`}}},
		{title: "Logins and reads that volumes share", description: "The part of all logins and reads that volumes needed for which the driver did not ask the store again.", unit: "percentunit", width: 8,
			queries: []target{{"{{provider}} {{operation}}", `sum by (provider, operation) (rate(mayfly_volume_requests_total{provider, shared="yes"}[$__rate_interval])) / sum by (provider, operation) (rate(mayfly_volume_requests_total{provider}[$__rate_interval]) > 0)`}}},
		{title: "Answers that are no success", description: "By the HTTP code; none is for no answer at all.", unit: "reqps", width: 8, stacked: true,
			queries: []target{{"{{provider}} {{operation}} {{code}}", `sum by (provider, operation, code) (rate(mayfly_store_requests_total{provider, code!="2xx"}[$__rate_interval])) > 0`}}},
		{title: "Time of requests, p95", description: "From the request to the end of the answer.", unit: "s", width: 8,
			queries: []target{{"{{provider}} {{operation}}", quantile("mayfly_store_request_duration_seconds_bucket{provider}", "provider, operation")}}},
		{title: "Circuits open", description: "Requests that these hold up fail at once.", unit: "short", width: 6,
			queries: []target{{"{{provider}} {{instance}}", `sum by (provider, instance) (mayfly_store_circuits_open{provider}) > 0`}}},
		{title: "Refreshes waiting", description: "Refreshes whose time has come and that wait for a place.", unit: "short", width: 6,
			queries: []target{{"{{provider}}", `sum by (provider) (mayfly_queue_length{provider})`}}},
		{title: "Longest wait for a refresh", description: "How long the refresh that is due for longest has waited.", unit: "s", width: 6,
			queries: []target{{"{{provider}} {{instance}}", `max by (provider, instance) (mayfly_queue_lateness_seconds{provider})`}}},
		{title: "Plugins that do not answer", description: "Provider plugins in use, by name, that gave no sign of life.", unit: "short", width: 6,
			queries: []target{{"{{provider}} {{instance}}", `1 - max by (provider, instance) (mayfly_provider_plugin_up{}) > 0`}}},
	}}
}

func quantile(series, by string) string {
	return fmt.Sprintf(`histogram_quantile(0.95, sum by (le, %s) (rate(%s[$__rate_interval])))`, by, series)
}

func times() row {
	return row{"Where the time goes", []panel{
		{title: "Steps of a first publish, p95", description: "Look-up of the class, the store's answers, mount, files, record. A pod's start waits for all of them.", unit: "s", width: 8,
			queries: []target{{"{{step}}", quantile(`mayfly_step_duration_seconds_bucket{, kind="publish"}`, "step")}}},
		{title: "Steps of a refresh, p95", description: "The same of the refreshes in the background, for which nobody waits.", unit: "s", width: 8,
			queries: []target{{"{{step}}", quantile(`mayfly_step_duration_seconds_bucket{, kind="refresh"}`, "step")}}},
		{title: "Calls, as kubelet sees them, p95", description: "kubelet's own measure of the time of its calls to the driver.", unit: "s", width: 8,
			queries: []target{{"{{method_name}}", quantile(`csi_operations_seconds_bucket{driver_name="secrets-store.csi.k8s.io"}`, "method_name")}}},
	}}
}

func credentials() row {
	return row{"Credentials", []panel{
		{title: "Time until the first credential ends", description: "By node. Renewals keep it up; where it falls to zero, renewals fail.", unit: "s", width: 8,
			queries: []target{{"{{instance}}", `min by (instance) (mayfly_next_expiry_timestamp_seconds{} - time())`}}},
		{title: "Issued, renewed, revoked", description: "Requests that succeeded: logins, new credentials, renewals, revocations.", unit: "reqps", width: 8,
			queries: []target{{"{{operation}}", `sum by (operation) (rate(mayfly_store_requests_total{provider, operation=~"login|issue|renew|revoke", code="2xx"}[$__rate_interval]))`}}},
		{title: "Revocations of gone pods' credentials", description: "ok, and those that were given up: what these were to end lives until its own time to live.", unit: "ops", width: 8,
			queries: []target{{"{{provider}} {{result}}", `sum by (provider, result) (rate(mayfly_releases_total{provider}[$__rate_interval])) > 0`}}},
	}}
}

func nodes() row {
	return row{"Nodes", []panel{
		{title: "Volumes", description: "By node.", unit: "short", width: 8, queries: []target{{"{{instance}}", `sum by (instance) (mayfly_volumes{})`}}},
		{title: "Memory budget used", description: "Contents of volumes, answers in flight, caches and records, of the node's budget. What does not fit is refused.", unit: "percentunit", width: 8,
			queries: []target{{"{{instance}}", `sum by (instance) (mayfly_memory_budget_bytes{}) / sum by (instance) (mayfly_memory_budget_limit_bytes{} > 0)`}}},
		{title: "Resident memory", description: "Of the driver's process. The contents of volumes are in tmpfs beside it.", unit: "bytes", width: 8,
			queries: []target{{"{{instance}}", `sum by (instance) (process_resident_memory_bytes{})`}}},
		{title: "CPU", description: "Of the driver's process, in cores.", unit: "short", width: 8,
			queries: []target{{"{{instance}}", `sum by (instance) (rate(process_cpu_seconds_total{}[$__rate_interval]))`}}},
		{title: "Requests to the API server", description: "By verb and the answer's code. Nothing is written where nothing changed.", unit: "reqps", width: 8, stacked: true,
			queries: []target{{"{{verb}} {{code}}", `sum by (verb, code) (rate(mayfly_api_requests_total{}[$__rate_interval])) > 0`}}},
		{title: "Audit trail", description: "Lines that were written, lines that were lost, and failed tries to write.", unit: "ops", width: 8, queries: []target{
			{"written", `sum(rate(mayfly_audit_lines_total{}[$__rate_interval]))`}, {"lost", `sum(rate(mayfly_audit_lost_lines_total{}[$__rate_interval]))`},
			{"failed writes", `sum(rate(mayfly_audit_write_errors_total{}[$__rate_interval]))`},
		}},
		{title: "Versions", description: "Drivers by version. More than one for long is an upgrade that got stuck.", unit: "short", width: 8,
			queries: []target{{"{{version}}", `count by (version) (mayfly_build_info{})`}}},
		{title: "Set aside, given up", description: "Records of volumes that could not be read after a restart, and volumes published from the node's memory while a store was away.", unit: "ops", width: 8, queries: []target{
			{"records set aside", `sum(rate(mayfly_records_set_aside_total{}[$__rate_interval]))`}, {"from memory", `sum(rate(mayfly_last_good_total{provider}[$__rate_interval]))`},
		}},
		{title: "Spans of traces", description: "By what became of them, where traces are on.", unit: "ops", width: 8,
			queries: []target{{"{{result}}", `sum by (result) (rate(mayfly_trace_spans_total{}[$__rate_interval]))`}}},
	}}
}
