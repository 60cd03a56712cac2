package plugin

// Watch is what Run does at intervals.
var Watch = (*Registry).watch
