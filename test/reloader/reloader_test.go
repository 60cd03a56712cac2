package reloader

import (
	"testing"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

func TestHash(t *testing.T) {
	status := func(class string, objects ...v1.SecretProviderClassObject) string {
		return Hash(v1.SecretProviderClassPodStatusStatus{SecretProviderClassName: class, Objects: objects})
	}
	a, b := v1.SecretProviderClassObject{ID: "a", Version: "1"}, v1.SecretProviderClassObject{ID: "b", Version: "x"}
	same := status("db", a, b)
	if status("db", b, a) != same {
		t.Error("the order of the objects counts")
	}
	for name, other := range map[string]string{
		"class": status("tls", a, b), "object": status("db", a), "version": status("db", a, v1.SecretProviderClassObject{ID: "b", Version: "y"}),
	} {
		if other == same {
			t.Errorf("another %s has the same hash", name)
		}
	}
}
