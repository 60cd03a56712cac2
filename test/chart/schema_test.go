package chart

import (
	"strings"
	"testing"
)

// TestBadValues: a value of the wrong kind fails the install and is named.
func TestBadValues(t *testing.T) {
	tests := []struct{ set, want string }{
		{"linux=3", "'/linux': got number, want object"},
		{"linux.nodeselector.a=b", "'/linux': additional properties 'nodeselector' not allowed"},
		{"windows.enabled=true", "additional properties 'windows' not allowed"},
		{"linux.image.tag=v1.6.0", "'/linux': additional properties 'image' not allowed"},
		{"image.tag=1", "'/image/tag': got number, want string"},
		{"image.digest=latest", "'/image/digest'"},
		{"image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of"},
		{"driverName=Mayfly_1", "'/driverName'"},
		{"driverName=null", "missing property 'driverName'"},
		{"vault.tls.skipVerify=yes", "'/vault/tls/skipVerify': got string, want boolean"},
		{"vault.address=vault.example.com", "'/vault/address'"},
		{"vault.allowedAddresses=https://a", "'/vault/allowedAddresses': got string, want array"},
		{"vault.allowedAddresses[0]=https://a\\,b", "'/vault/allowedAddresses/0'"},
		{"vault.maxRetries=-1", "'/vault/maxRetries'"},
		{"tokenRequests[0].expirationSeconds=60", "'/tokenRequests/0'"},
		{"tokenRequests=vault", "'/tokenRequests': got string, want array"},
		{"enableSecretRotation=false", "'/enableSecretRotation': value must be true"},
		{"refresh.interval=120", "'/refresh/interval': got number, want string"},
		{"refresh.interval=2 minutes", "'/refresh/interval'"},
		{"rotationPollInterval=500ms", "'/rotationPollInterval'"},
		{"refresh.interval=0m", "'/refresh/interval'"},
		{"refresh.minInterval=0.9s", "'/refresh/minInterval'"},
		{"linux.driver.resources.limits.memory=10Mi", "linux.driver.resources.limits.memory is 10Mi"},
		{"linux.driver.resources.limits.memory=1000", "linux.driver.resources.limits.memory is 1000"},
		{"memory.budget=200Mi", "memory.budget is 200Mi, and linux.driver.resources.limits.memory is 192Mi"},
		{"linux.extraArgs[0]=--nope", "'/linux/extraArgs/0'"},
		{"health.address=node-1", "'/health/address'"},
		{"health.address=127.0.0.1", "health.address: only with linux.hostNetwork"},
		{"vault.fallbackAddress=https://second.test", "vault.fallbackAddress: is the second address of the store at vault.address"},
		{"volume.sizeLimit=16MB", "'/volume/sizeLimit'"},
		{"refresh.workers=0", "'/refresh/workers'"},
		{"kubeAPI.qps=0", "'/kubeAPI/qps'"},
		{"crds.install=maybe", "'/crds/install': value must be one of 'auto', true, false"},
		{"rbac.admissionPolicy=1", "'/rbac/admissionPolicy'"},
		{"csiDriver.serviceAccountTokenInSecrets=1", "'/csiDriver/serviceAccountTokenInSecrets'"},
		{"rolloutRestart.enabled=true", "rolloutRestart.enabled: name the workloads"},
		{"rolloutRestart.workloads.shop[0]=Job/x", "'/rolloutRestart/workloads/shop/0'"},
		{"syncSecret.enabled=true", "syncSecret.enabled: name the Secrets that the driver may write"},
		{"syncSecret.secrets.shop=db", "'/syncSecret/secrets/shop'"},
		{"syncSecret=true", "'/syncSecret': got boolean, want object"},
		{"startupTaint.key=not a key", "'/startupTaint/key'"},
		{"log.level=3", "'/log/level'"},
		{"audit.path=audit.log", "'/audit/path'"},
		{"audit.log=/audit.log", "'/audit/log'"},
		{"audit.level=none", "'/audit/level': value must be one of"},
		{"health.port=99999", "'/health/port'"},
		{"livenessProbe.port=99999", "'/livenessProbe/port'"},
		{"status.address=", "'/status/address'"},
		{"status.address=8096", "'/status/address': got number, want string"},
		{"metrics.address=8095", "'/metrics/address': got number, want string"},
		{"linux.kubeletRootDir=var/lib/kubelet", "'/linux/kubeletRootDir'"},
		{"linux.terminationGracePeriodSeconds=5", "'/linux/terminationGracePeriodSeconds'"},
		{"linux.updateStrategy.type=Recreate", "'/linux/updateStrategy/type'"},
		{"linux.extraArgs[0]=verbose", "'/linux/extraArgs/0'"},
		{"linux.env[0].value=x", "'/linux/env/0': missing property 'name'"},
		{"linux.podLabels.a=1", "'/linux/podLabels/a': got number, want string"},
		{"linux.driver.resources.memory=1Gi", "'/linux/driver/resources': additional properties 'memory' not allowed"},
		{"metrics.podMonitor.enabled=true,metrics.address=", "metrics.address is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.set, func(t *testing.T) {
			t.Parallel()
			_, failure := tryRender(t, newest, "--set", tt.set)
			if !strings.Contains(failure, tt.want) {
				t.Errorf("want a failure with %q, got %q", tt.want, failure)
			}
		})
	}
}

// TestSubchart: a parent chart adds the value "global".
func TestSubchart(t *testing.T) {
	render(t, newest, "--set", "global.registry=example.com")
}

func TestTooOldKubernetes(t *testing.T) {
	_, failure := tryRender(t, "1.26.15")
	if !strings.Contains(failure, "1.26.15") {
		t.Errorf("Kubernetes 1.26 was not refused: %q", failure)
	}
}

func TestLint(t *testing.T) {
	for name := range valueSets {
		if out, err := runHelm(t, "lint", "--strict", chartDir, "--values", "testdata/"+name+".values.yaml"); err != nil {
			t.Errorf("linting with %s: %v\n%s", name, err, out)
		}
	}
}
