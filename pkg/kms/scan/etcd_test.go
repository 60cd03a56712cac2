package scan_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// kv answers ranges as etcd does. It can compact a revision away between two
// pages.
type kv struct {
	etcdserverpb.UnimplementedKVServer
	values map[string][]byte

	mu           sync.Mutex
	revision     int64
	compactAfter int // pages
	pages        int
	largest      int64 // limit that was asked for
}

func (k *kv) Range(_ context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pages++
	k.largest = max(k.largest, r.Limit)
	if k.compactAfter > 0 && k.pages > k.compactAfter {
		k.compactAfter = 0
		k.revision++
	}
	if r.Revision != 0 && r.Revision < k.revision {
		return nil, rpctypes.ErrGRPCCompacted
	}
	answer := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: k.revision}}
	for _, key := range slices.Sorted(maps.Keys(k.values)) {
		if key < string(r.Key) || key >= string(r.RangeEnd) {
			continue
		}
		if answer.Count++; int64(len(answer.Kvs)) < r.Limit {
			answer.Kvs = append(answer.Kvs, &mvccpb.KeyValue{Key: []byte(key), Value: k.values[key]})
		}
	}
	answer.More = answer.Count > int64(len(answer.Kvs))
	return answer, nil
}

func (k *kv) serve(t *testing.T) *scan.Etcd {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "etcd.sock")
	listener := testkit.Value((&net.ListenConfig{}).Listen(t.Context(), "unix", socket))(t)
	server := grpc.NewServer(grpc.MaxSendMsgSize(1 << 30))
	etcdserverpb.RegisterKVServer(server, k)
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); done.Wait() })
	e := testkit.Value(scan.Open(t.Context(), scan.EtcdConfig{Endpoints: []string{"unix://" + socket}}))(t)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func TestEtcd(t *testing.T) {
	const n = 3000
	small, large := map[string][]byte{}, map[string][]byte{}
	for i := range n {
		small[fmt.Sprintf("/registry/secrets/a/%04d", i)] = []byte("v")
	}
	small["/registry/secretsandmore/a"] = []byte("v")
	small["/registry/configmaps/a"] = []byte("v")
	for i := range 40 {
		large[fmt.Sprintf("/registry/secrets/a/%04d", i)] = make([]byte, 1<<20)
	}
	for name, tc := range map[string]struct {
		server *kv
		want   int
	}{
		"many pages":     {&kv{values: small, revision: 9}, n},
		"compacted away": {&kv{values: small, revision: 9, compactAfter: 2}, n},
		"large values":   {&kv{values: large, revision: 9}, 40},
		"nothing":        {&kv{revision: 9}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := tc.server.serve(t)
			seen := map[string]int{}
			testkit.Must(t, e.Each(t.Context(), []string{"/registry/secrets/"}, func(key string, _ []byte) { seen[key]++ }))
			for key, times := range seen {
				if times != 1 || !strings.HasPrefix(key, "/registry/secrets/") {
					t.Errorf("%s was visited %d times", key, times)
				}
			}
			if len(seen) != tc.want || e.Revision() != 9 {
				t.Errorf("%d keys at revision %d", len(seen), e.Revision())
			}
			if tc.server.pages < 2 && tc.want > 0 || tc.server.largest > 1024 {
				t.Errorf("%d pages of at most %d", tc.server.pages, tc.server.largest)
			}
		})
	}
}

func TestEtcdRefuses(t *testing.T) {
	huge := &kv{values: map[string][]byte{"/registry/secrets/a/b": make([]byte, 20<<20)}, revision: 9}
	err := huge.serve(t).Each(t.Context(), []string{"/registry/secrets/"}, func(string, []byte) {})
	testkit.Says(t, err, "has over 16 MiB")
	testkit.Error(scan.Open(t.Context(), scan.EtcdConfig{Endpoints: []string{"https://127.0.0.1:1"}, CACert: "/absent"}))(t, "/absent")
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = scan.Open(soon, scan.EtcdConfig{Endpoints: []string{"unix://" + filepath.Join(t.TempDir(), "absent.sock")}})
	testkit.Says(t, err, "connecting to etcd at unix://")
}
