package chart

import "testing"

// samples has another value, in JSON, for each value of the chart.
var samples = map[string]string{
	"driverName":                             `"other.example.com"`,
	"nameOverride":                           `"other"`,
	"fullnameOverride":                       `"other"`,
	"commonLabels":                           `{"a":"b"}`,
	"commonAnnotations":                      `{"a":"b"}`,
	"image.repository":                       `"registry.test/other"`,
	"image.tag":                              `"other"`,
	"image.digest":                           `"sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"`,
	"image.pullPolicy":                       `"Never"`,
	"imagePullSecrets":                       `[{"name":"other"}]`,
	"crds.install":                           `false`,
	"csiDriver.serviceAccountTokenInSecrets": `false`,
	"tokenRequests":                          `[{"audience":"other"}]`,
	"refresh.interval":                       `"7m"`,
	"rotationEvents":                         `true`,
	"refresh.workers":                        `7`,
	"refresh.timeout":                        `"7s"`,
	"refresh.lastGoodMaxAge":                 `"7m"`,
	"volume.sizeLimit":                       `"7Mi"`,
	"volume.inodeLimit":                      `7`,
	"volume.maxSizeLimit":                    `"7Mi"`,
	"volume.maxInodeLimit":                   `7`,
	"refresh.minInterval":                    `"7s"`,
	"memory.budget":                          `"7Mi"`,
	"memory.namespaceLimit":                  `"7Mi"`,
	"memory.volumeLimit":                     `"0"`,
	"memory.stateSize":                       `"7Mi"`,
	"memory.namespaceStateLimit":             `"7Mi"`,
	"kubeAPI.qps":                            `7`,
	"kubeAPI.burst":                          `7`,
	"classFiles.configMaps":                  `["other"]`,
	"classFiles.secrets":                     `["other"]`,
	"classFiles.directories":                 `["/other"]`,
	"allowLocalAddresses":                    `true`,
	"strictClasses":                          `true`,
	"vault.address":                          `"https://other.test"`,
	"vault.fallbackAddress":                  `"https://second.test"`,
	"vault.namespace":                        `"other"`,
	"vault.authMountPath":                    `"other"`,
	"vault.audience":                         `"other"`,
	"vault.allowedAddresses":                 `["https://other.test"]`,
	"vault.allowedAuthMountPaths":            `["other"]`,
	"vault.allowCertAuth":                    `true`,
	"vault.forbidSkipVerify":                 `true`,
	"vault.disableRevocation":                `true`,
	"vault.requestTimeout":                   `"7s"`,
	"vault.maxRetries":                       `7`,
	"vault.tls.caConfigMap.name":             `"other"`,
	"vault.tls.caConfigMap.key":              `"other"`,
	"vault.tls.serverName":                   `"other.test"`,
	"vault.tls.clientCertSecret":             `"other"`,
	"vault.tls.skipVerify":                   `true`,
	"rolloutRestart.enabled":                 `false`,
	"rolloutRestart.workloads":               `{"other": ["Deployment/other"]}`,
	"syncSecret.enabled":                     `false`,
	"syncSecret.secrets":                     `{"other": ["other"]}`,
	"syncSecret.namespaces":                  `["other"]`,
	"providerPlugins.maxMessageSize":         `"8Mi"`,
	"providerPlugins.timeout":                `"5s"`,
	"providerPlugins.audiences":              `{"aws": ["other"]}`,
	"akeyless.gatewayURL":                    `"https://gateway.test:8081"`,
	"akeyless.fallbackGatewayURL":            `"https://second.test:8081"`,
	"akeyless.accessID":                      `"p-other"`,
	"akeyless.k8sAuthConfig":                 `"other"`,
	"akeyless.audience":                      `"other"`,
	"akeyless.allowedAddresses":              `["https://other.test"]`,
	"akeyless.forbidSkipVerify":              `true`,
	"akeyless.shareByServiceAccount":         `true`,
	"akeyless.disableRevocation":             `true`,
	"akeyless.requestTimeout":                `"7s"`,
	"providerPlugins.enabled":                `true`,
	"startupTaint.remove":                    `true`,
	"startupTaint.key":                       `"other"`,
	"log.format":                             `"json"`,
	"log.level":                              `"error"`,
	"audit.path":                             `"/var/log/other/audit.log"`,
	"audit.level":                            `"changes"`,
	"health.port":                            `7`,
	"health.address":                         `"127.0.0.2"`,
	"status.address":                         `"off"`,
	"rbac.install":                           `false`,
	"rbac.admissionPolicy":                   `false`,
	"rbac.aggregateRoles":                    `false`,
	"serviceAccount.create":                  `false`,
	"serviceAccount.name":                    `"other"`,
	"serviceAccount.annotations":             `{"a":"b"}`,
	"uninstallCheck.enabled":                 `false`,
	"networkPolicy.enabled":                  `true`,
	"networkPolicy.metricsFrom":              `[{"podSelector":{}}]`,
	"networkPolicy.egress":                   `[{"to":[{"podSelector":{}}]}]`,
	"metrics.podMonitor.enabled":             `true`,
	"metrics.podMonitor.interval":            `"7s"`,
	"metrics.podMonitor.labels":              `{"a":"b"}`,
	"metrics.serviceMonitor.enabled":         `true`,
	"metrics.serviceMonitor.interval":        `"7s"`,
	"metrics.serviceMonitor.labels":          `{"a":"b"}`,
	"metrics.prometheusRule.enabled":         `true`,
	"metrics.prometheusRule.job":             `"other"`,
	"metrics.prometheusRule.labels":          `{"a":"b"}`,
	"metrics.dashboard.enabled":              `true`,
	"metrics.dashboard.namespace":            `"other"`,
	"metrics.dashboard.labels":               `{"a":"b"}`,
	"metrics.dashboard.annotations":          `{"a":"b"}`,
	"tracing.enabled":                        `false`,
	"tracing.endpoint":                       `"http://other.test:4317"`,
	"linux.kubeletRootDir":                   `"/other"`,
	"metrics.address":                        `":7"`,
	"linux.providersDir":                     `"/other"`,
	"linux.additionalProvidersDirs":          `["/other"]`,
	"linux.priorityClassName":                `"other"`,
	"linux.updateStrategy":                   `{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":7}}`,
	"linux.terminationGracePeriodSeconds":    `77`,
	"linux.nodeSelector":                     `{"a":"b"}`,
	"linux.tolerations":                      `[{"key":"other"}]`,
	"linux.affinity":                         `{"podAntiAffinity":{}}`,
	"linux.hostNetwork":                      `true`,
	"linux.daemonsetAnnotations":             `{"a":"b"}`,
	"linux.podAnnotations":                   `{"a":"b"}`,
	"linux.podLabels":                        `{"a":"b"}`,
	"linux.env":                              `[{"name":"A","value":"b"}]`,
	"linux.extraArgs":                        `["--version"]`,
	"linux.volumes":                          `[{"name":"other","emptyDir":{}}]`,
	"linux.volumeMounts":                     `[{"name":"other","mountPath":"/other"}]`,
	"linux.podSecurityContext":               `{"fsGroup":7}`,
	"linux.securityContext":                  `{"runAsUser":7}`,
	"linux.driver.resources":                 `{"limits":{"cpu":"7"}}`,
}

// constant values have one choice, which the templates use nevertheless.
var constant = map[string]bool{"enableSecretRotation": true}

// TestEveryValueHasAnEffect: no value is there for show.
func TestEveryValueHasAnEffect(t *testing.T) {
	bases := []string{"everything", "default"}
	before := map[string]string{}
	for _, base := range bases {
		before[base] = renderSet(t, base)
	}
	unused := map[string]bool{}
	for path := range samples {
		unused[path] = true
	}
	for _, section := range sections(t) {
		for _, v := range section.values {
			if v.node == nil || constant[v.path] {
				continue
			}
			sample, ok := samples[v.path]
			if !ok {
				t.Errorf("%s: no sample in this test", v.path)
				continue
			}
			delete(unused, v.path)
			t.Run(v.path, func(t *testing.T) {
				t.Parallel()
				for _, base := range bases {
					if renderSet(t, base, "--set-json", v.path+"="+sample) != before[base] {
						return
					}
				}
				t.Errorf("%s=%s changes no manifest", v.path, sample)
			})
		}
	}
	for path := range unused {
		t.Errorf("%s: has a sample, and is not in values.yaml", path)
	}
}
