package apiserver

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Writer is an API server, and the key id that it writes with.
type Writer struct {
	URL string
	Seen
	// Err is why it could not be asked.
	Err error
}

// Writers are all API servers of a cluster.
type Writers struct {
	Servers []Writer
	// Missing are the hosts of API servers that run according to their Leases, but were not asked.
	Missing []string
	// NoLeases says why their Leases could not be read.
	NoLeases error
}

// Writers asks every API server which key id it writes with.
func (c *Cluster) Writers(ctx context.Context, provider string) (Writers, error) {
	servers, err := c.Servers(ctx)
	if err != nil {
		return Writers{}, err
	}
	var w Writers
	var asked []string
	for _, s := range servers {
		seen, err := s.Seen(ctx, provider)
		w.Servers = append(w.Servers, Writer{s.URL, seen, err})
		asked = append(asked, seen.IDHash)
	}
	identities, err := c.Identities(ctx, time.Now())
	if err != nil {
		w.NoLeases = err
		return w, nil
	}
	for _, identity := range identities {
		if !slices.Contains(asked, identity.IDHash) {
			w.Missing = append(w.Missing, identity.Host)
		}
	}
	slices.Sort(w.Missing)
	return w, nil
}

// Behind lists the API servers that do not write with one of the key ids yet, and why.
func (w Writers) Behind(hashes ...string) []string {
	var all []string
	for _, s := range w.Servers {
		if text := s.behind(hashes); text != "" {
			all = append(all, s.URL+" "+text)
		}
	}
	for _, host := range w.Missing {
		all = append(all, fmt.Sprintf("the API server of host %s is not among those asked, or has no provider of this name: name all with --api-servers", host))
	}
	if w.NoLeases != nil {
		all = append(all, "it is not known whether these are all API servers: "+w.NoLeases.Error())
	}
	return all
}

func (s Writer) behind(hashes []string) string {
	switch {
	case s.Err != nil:
		return "cannot be asked: " + s.Err.Error()
	case s.KeyIDHash == "":
		return "has no key id of a provider of this name"
	case !slices.Contains(hashes, s.KeyIDHash):
		return "writes under another key id, " + s.KeyIDHash
	case s.Unready != "":
		return "is not ready: " + s.Unready
	}
	return ""
}
