package plugin_test

import (
	"fmt"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/provider/providertest"
)

func TestConformance(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	changes := 0
	request := func(t *testing.T, volume, account, objects string) provider.Request {
		t.Helper()
		r := w.request("objects", objects)
		r.Volume, r.Pod.Name, r.Pod.ServiceAccount = volume, "pod-"+volume, account
		r.Tokens = tokensOf(t, "shop/"+account, "sts.amazonaws.com")
		return r
	}
	providertest.Run(t, providertest.Harness{
		Provider: w.get("aws"),
		Allowed: func(t *testing.T, volume string) provider.Request {
			return request(t, volume, "web", twoObjects)
		},
		Hearsay: true,
		Denied: func(t *testing.T, volume string) provider.Request {
			return request(t, volume, "stranger", twoObjects)
		},
		Partial: func(t *testing.T, volume string) provider.Request {
			return request(t, volume, "web", twoObjects+"- {objectName: missing}\n")
		},
		Change: func(*testing.T) {
			changes++
			w.store.Set("db", fmt.Sprintf("s3cr3t-db-%d", changes))
		},
		Hang: func(*testing.T) <-chan struct{} { return w.server.Freeze() },
		Secrets: func() []string {
			return []string{"s3cr3t", jwt("shop/web", "sts.amazonaws.com"), jwt("shop/stranger", "sts.amazonaws.com")}
		},
	})
}
