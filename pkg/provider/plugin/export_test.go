package plugin

// Watch is what Run does now and then.
var Watch = (*Registry).watch
