//go:build lifetimes

package server_test

// These tests wait for the server's own pauses: make lifetimes.

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// A socket that is removed from under the server, as by a clean-up of /run, comes
// back; a restart would cost what is in memory.
func TestLifetimeOfRemovedSocket(t *testing.T) {
	s := socket(t)
	serve(t, &answers{}, s)
	testkit.Must(t, os.RemoveAll(filepath.Dir(s.Path)))
	deadline := time.After(30 * time.Second)
	for {
		conn, err := grpc.NewClient("unix:"+s.Path, grpc.WithTransportCredentials(insecure.NewCredentials()))
		testkit.Must(t, err)
		_, err = kmsv2.NewKeyManagementServiceClient(conn).Status(t.Context(), &kmsv2.StatusRequest{})
		_ = conn.Close()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
