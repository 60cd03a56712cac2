package main

import (
	"cmp"
	"slices"
	"time"
)

// results is everything that was measured. Times are milliseconds, memory is
// bytes.
type results struct {
	Machine machine `json:"machine"`
	Size    size    `json:"size"`

	First firstPublishes `json:"firstPublishes"`
	// Told is the requests to the API server for all pods' new volumes, up to the last pod status.
	Told      map[string]int `json:"requestsToAPIServerForNewVolumes"`
	Republish republished    `json:"republish"`
	ChangeOne changed        `json:"changeOneServiceAccount"`
	ChangeAll changed        `json:"changeAsManyServiceAccounts"`
	Restart   restarted      `json:"restart"`
	Life      life           `json:"wholeLife"`
	Synced    synced         `json:"synced"`
	Observed  observed       `json:"observed"`
	// API has the classes from an API server, Dir from a directory.
	API process `json:"processWithAPIServer"`
	// Large is a driver with timesMore as many volumes.
	Large process `json:"processWithManyVolumes"`
	Dir   process `json:"processWithClassDir"`

	RestOne rested `json:"steadyStateOneServiceAccount"`
	RestAll rested `json:"steadyStateAsManyServiceAccounts"`
	Outage  outage `json:"outage"`
	// Plugin is this project's provider plugin.
	Plugin pluginTimes `json:"plugin"`
	// Akeyless is on a gateway that asks Akeyless' service for every answer,
	// AkeylessCached on one that asks it for logins alone.
	Akeyless       firstPublishes `json:"akeylessFirstPublishes"`
	AkeylessCached firstPublishes `json:"akeylessFirstPublishesCached"`
	Binary         binary         `json:"binary"`

	config config
}

// size repeats the flags that say how much was done.
type size struct {
	Pods      int     `json:"pods"`
	AtOnce    int     `json:"atOnce"`
	Rounds    int     `json:"rounds"`
	Classes   int     `json:"unrelatedClasses"`
	APIServer string  `json:"apiServer"`
	Republish int     `json:"republishesPerVolume"`
	Interval  float64 `json:"intervalMS"`
	Short     bool    `json:"short"`

	SteadyInterval  float64 `json:"steadyIntervalMS"`
	SteadyIntervals int     `json:"steadyIntervals"`
	Outage          float64 `json:"outageMS"`
	AkeylessLatency float64 `json:"akeylessLatencyMS"`
	AkeylessCached  float64 `json:"akeylessCachedLatencyMS"`
}

// firstPublishes has one time for each round.
type firstPublishes struct {
	Floor []float64 `json:"floorMS"`
	// Many has a service account for each pod, One has one for all.
	Many publishes `json:"asManyServiceAccounts"`
	One  publishes `json:"oneServiceAccount"`
	// Alone is Many through the driver's provider package alone, in the
	// benchmark's process; empty where that was not measured.
	Alone publishes `json:"providerPackageAlone"`
	// Cold is the first round of a driver just started, which is not counted.
	Cold          float64  `json:"coldMS"`
	FloorRequests requests `json:"floorRequests"`
}

type publishes struct {
	Wall []float64 `json:"wallMS"`
	CPU  []float64 `json:"driverCPUMS"`
	// Requests, to the store, and API are those of the last round.
	Requests requests       `json:"requestsToStore"`
	API      map[string]int `json:"requestsToAPIServer"`
}

// republished is a republish with nothing due, one at a time.
type republished struct {
	Calls int            `json:"calls"`
	P50   float64        `json:"p50MS"`
	P99   float64        `json:"p99MS"`
	CPU   float64        `json:"driverCPUMS"`
	Vault requests       `json:"requestsToVault"`
	API   map[string]int `json:"requestsToAPIServer"`
}

// changed is a change in the store while all volumes are published.
type changed struct {
	AllNew   float64        `json:"allNewMS"`
	CPU      float64        `json:"driverCPUMS"`
	Secrets  int            `json:"distinctSecrets"`
	Accounts int            `json:"serviceAccounts"`
	Vault    requests       `json:"requestsToVault"`
	API      map[string]int `json:"requestsToAPIServer"`
}

// restarted is a start after kill -9 with all volumes published.
type restarted struct {
	Ready float64        `json:"readyMS"`
	Vault requests       `json:"requestsToVault"`
	API   map[string]int `json:"requestsToAPIServer"`
}

// rested is some intervals without a change.
type rested struct {
	Accounts int `json:"serviceAccounts"`
	// Pairs are the distinct pairs of identity and secret; Least and Most is
	// how often one of them was read.
	Pairs int            `json:"pairs"`
	Least int            `json:"leastReadsOfAPair"`
	Most  int            `json:"mostReadsOfAPair"`
	CPU   float64        `json:"driverCPUMS"`
	Vault requests       `json:"requestsToVault"`
	API   map[string]int `json:"requestsToAPIServer"`
}

// outage is a time in which the store answers 503.
type outage struct {
	Volumes  int     `json:"volumes"`
	Accounts int     `json:"serviceAccounts"`
	Interval float64 `json:"intervalMS"`
	Lasted   float64 `json:"lastedMS"`
	// Requests reached the store in that time; Most of them within one second,
	// which began at MostAt, and MostLater once a second had passed since the
	// first failed.
	Requests  int     `json:"requests"`
	Most      int     `json:"mostInOneSecond"`
	MostAt    float64 `json:"mostInOneSecondAtMS"`
	MostLater int     `json:"mostInOneSecondLater"`
	// AllFresh is from the store's return to the last volume's new content.
	AllFresh float64 `json:"allFreshMS"`
	// Vault is the requests to Vault from the beginning until then, and CPU the driver's time.
	Vault requests `json:"requestsToVault"`
	CPU   float64  `json:"driverCPUMS"`
}

// mean is the number of requests a second.
func (o outage) mean() float64 {
	if o.Lasted == 0 {
		return 0
	}
	return float64(o.Requests) / o.Lasted * 1000
}

// pluginTimes are medians of calls in turn, one at a time.
type pluginTimes struct {
	Calls   int     `json:"calls"`
	Bare    float64 `json:"bareMountMS"`
	Fetch   float64 `json:"providerPackageMS"`
	Publish float64 `json:"publishMS"`
	// Remembered is a publish of Vault's secrets that the driver has read for
	// another pod just before.
	Remembered float64 `json:"publishFromMemoryMS"`
}

// binary is the program that was measured.
type binary struct {
	Bytes int64  `json:"bytes"`
	Arch  string `json:"arch"`
	// Given says that it was not built here.
	Given bool `json:"given"`
}

// process is a driver's program and resource use.
type process struct {
	Ready []float64 `json:"readyMS"` // of starts with no volume
	// Memory with all volumes published: resident now and at most, and the
	// proportional set size, 0 if it cannot be read.
	RSS  int64 `json:"rssBytes"`
	Peak int64 `json:"peakRSSBytes"`
	PSS  int64 `json:"pssBytes"`
	// Tmpfs is the size of the volumes and the driver's state: not the process's memory, but
	// charged to its memory cgroup, since it wrote them.
	Tmpfs int64 `json:"tmpfsBytes"`
	// CPU is all that the process used.
	CPU float64 `json:"cpuMS"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// median of an even number is the mean of the two in the middle; of none, 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile is the nearest rank in a sorted list.
func percentile[T cmp.Ordered](sorted []T, share float64) T {
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// spread is the least and the greatest ratio of two series, round by round.
func spread(values, floor []float64) (low, high float64) {
	for i, v := range values {
		if i >= len(floor) || floor[i] == 0 {
			break
		}
		ratio := v / floor[i]
		if low == 0 || ratio < low {
			low = ratio
		}
		high = max(high, ratio)
	}
	return low, high
}
