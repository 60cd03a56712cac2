package apiserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Cluster is all API servers of a cluster.
type Cluster struct {
	access access
	agent  string
	main   *Server
	named  []*Server
	// takenUp is when a controller should have begun a migration.
	takenUp time.Duration
}

// Servers are the API servers that were named, or else those behind the Service kubernetes, or else
// the kubeconfig's.
func (c *Cluster) Servers(ctx context.Context) ([]*Server, error) {
	if len(c.named) > 0 {
		return c.named, nil
	}
	var slicesOf struct {
		Items []struct {
			Ports []struct {
				Name string `json:"name"`
				Port int    `json:"port"`
			} `json:"ports"`
			Endpoints []struct {
				Addresses []string `json:"addresses"`
			} `json:"endpoints"`
		} `json:"items"`
	}
	const path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
	if err := c.main.do(ctx, call{method: http.MethodGet, path: path, accept: contentJSON, into: &slicesOf}); err != nil {
		return nil, fmt.Errorf("listing the API servers behind the Service kubernetes: %w", err)
	}
	var addresses []string
	for _, slice := range slicesOf.Items {
		for _, port := range slice.Ports {
			for _, endpoint := range slice.Endpoints {
				for _, ip := range endpoint.Addresses {
					addresses = append(addresses, "https://"+net.JoinHostPort(ip, strconv.Itoa(port.Port)))
				}
			}
		}
	}
	if len(addresses) == 0 {
		return []*Server{c.main}, nil
	}
	slices.Sort(addresses)
	var servers []*Server
	for _, address := range slices.Compact(addresses) {
		s, err := c.server(address, cmp.Or(c.access.serverName, serviceName))
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// Identity is a running API server, as its Lease names it.
type Identity struct {
	// IDHash is its name in metrics.
	IDHash string
	// Host is its host's name.
	Host string
}

// leaseGrace is added to a Lease's renewal time. API servers renew the Lease every ten seconds, and
// its usual duration is an hour: with that, an API server that was killed would count as running
// for an hour.
const leaseGrace = time.Minute

// Identities are the API servers that renew their Leases.
func (c *Cluster) Identities(ctx context.Context, now time.Time) ([]Identity, error) {
	var leases struct {
		Items []struct {
			Metadata struct {
				Name   string            `json:"name"`
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
			Spec struct {
				RenewTime time.Time `json:"renewTime"`
			} `json:"spec"`
		} `json:"items"`
	}
	path := "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?labelSelector=" + url.QueryEscape("apiserver.kubernetes.io/identity=kube-apiserver")
	if err := c.main.do(ctx, call{method: http.MethodGet, path: path, accept: contentJSON, into: &leases}); err != nil {
		return nil, fmt.Errorf("listing the Leases of the API servers: %w", err)
	}
	var all []Identity
	for _, l := range leases.Items {
		if now.Sub(l.Spec.RenewTime) > leaseGrace {
			continue
		}
		sum := sha256.Sum256([]byte(l.Metadata.Name))
		all = append(all, Identity{IDHash: "sha256:" + hex.EncodeToString(sum[:]), Host: cmp.Or(l.Metadata.Labels["kubernetes.io/hostname"], l.Metadata.Name)})
	}
	return all, nil
}
