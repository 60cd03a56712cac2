package credential

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// The examples are concatenated, so that no scanner reports this file as a leak.
func TestFind(t *testing.T) {
	const letters = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9"
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`))
	body := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"1234567890","name":"x"}`))
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	pem := "MIIEpAIBAAKCAQEA7bq5TzX9pW2mKc8VhJfQd3sYr1uLgNo0ZkAeIwBtCxDyGvFi\nMj4HsRlP6nUaOE5T\n"
	find := func(shape string, line int) []string { return []string{fmt.Sprintf("%d %s", line, shape)} }
	for _, tc := range []struct {
		why, name, text string
		want            []string
	}{
		{"a key", "tls.key", "-----BEGIN " + "PRIVATE KEY-----\n" + pem + "-----END PRIVATE KEY-----\n", find("a private key", 2)},
		{"a key of RSA, indented", "app.yaml", "tls:\n  key: |\n    -----BEGIN RSA " + "PRIVATE KEY-----\n    " + strings.ReplaceAll(pem, "\n", "\n    ") + "-----END RSA PRIVATE KEY-----\n", find("a private key", 4)},
		{"a key in JSON", "google.json", `{"type": "service_account", "private_key": "-----BEGIN ` + `PRIVATE KEY-----\n` + strings.ReplaceAll(pem, "\n", `\n`) + `-----END PRIVATE KEY-----\n"}`, find("a private key", 1)},
		{"a public key", "pub", "-----BEGIN PUBLIC KEY-----\n" + pem + "-----END PUBLIC KEY-----\n", nil},
		{"a certificate", "ca.crt", "-----BEGIN CERTIFICATE-----\n" + pem + "-----END CERTIFICATE-----\n", nil},
		{"a key that is left out", "tls.key", "-----BEGIN " + "PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n", nil},
		{"an encrypted key", "tls.key", "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----\n" + pem, nil},
		{"an access key", "AWS_ACCESS_KEY_ID", "AKIA" + "Q3EGWJ7ZKLM2XP4T", find("an AWS access key", 1)},
		{"the documentation's access key", "AWS_ACCESS_KEY_ID", "AKIA" + "IOSFODNN7EXAMPLE", nil},
		{"a secret key", "credentials", "[default]\naws_secret_access_key = " + "wJalrXUtnFEMIK7MDENGbPxRfiCYzzQ1x2y3z4w5", find("an AWS secret key", 2)},
		{"GitHub", "GH", "ghp_" + letters[:36], find("a GitHub token", 1)},
		{"GitHub, filled up", "GH", "ghp_" + strings.Repeat("x", 36), nil},
		{"GitHub, fine-grained", "x", "github_pat_" + letters + letters, find("a GitHub token", 1)},
		{"GitLab", "x", "token: glpat-" + letters[:20], find("a GitLab token", 1)},
		{"Slack", "x", "xoxb-" + "1234567890-" + letters[:24], find("a Slack token", 1)},
		{"a Slack webhook", "x", "url: https://hooks.slack.com/services/" + "T01AB2CD3/B04EF5GH6/" + letters[:24], find("a Slack webhook", 1)},
		{"Vault", "VAULT_TOKEN", "hvs." + letters[:40], find("a Vault token", 1)},
		{"Vault before 1.10", "x", "token=s." + letters[:24], find("a Vault token", 1)},
		{"no Vault token", "x", "s.abcdefghijklmnopqrstuvwx", nil},
		{"a method's name", "x", "return this.abcdefghijklmnopqrstuvwx", nil},
		{"Google", "x", "AIza" + letters[:35], find("a Google API key", 1)},
		{"Stripe", "x", "sk_live_" + letters[:24], find("a Stripe key", 1)},
		{"Stripe, for tests", "x", "sk_test_" + letters[:24], nil},
		{"npm", ".npmrc", "//registry.npmjs.org/:_authToken=npm_" + letters[:36], find("an npm token", 1)},
		{"SendGrid", "x", "SG." + letters[:22] + "." + letters + "q", find("a SendGrid key", 1)},
		{"a web token", "x", header + "." + body + "." + letters, find("a JSON web token", 1)},
		{"an unsigned web token", "x", unsigned + "." + body + "." + letters, nil},
		{"a web token's look-alike", "x", "eyJhbGciOiJub25lI.eyJzdWIiOiIxMjM0." + letters, nil},
		{"a URL", "DATABASE_URL", "postgres://app:Tr0ub4dor@db:5432/app", find("a URL with a password", 1)},
		{"a URL in a file", "app.properties", "a=1\nurl=amqp://guest:s3cr3tPw@mq.example/vhost\n", find("a URL with a password", 2)},
		{"a URL with an escaped password", "u", "mongodb://app:p%40ss1@mongo/db", find("a URL with a password", 1)},
		{"a URL with a variable", "u", "postgres://app:$(DB_PASSWORD)@db/app", nil},
		{"a URL with another variable", "u", "postgres://app:${PASSWORD}@db/app", nil},
		{"a URL with a template", "u", "postgres://app:{{password}}@db/app", nil},
		{"a URL with a placeholder", "u", "postgres://user:password@localhost/app", nil},
		{"a URL with stars", "u", "postgres://user:***@localhost/app", nil},
		{"a URL without a password", "u", "https://user@example.com:8443/path", nil},
		{"a URL with a port", "u", "https://example.com:8443/a@b", nil},
		{"an image with a digest", "image", "registry:5000/app@sha256:0123456789abcdef", nil},
		{"a password", "DB_PASSWORD", "Summer2024!x", find(byName, 1)},
		{"a generated password", "password", "kJ8fQz2LmX7w", find(byName, 1)},
		{"a hexadecimal secret", "SESSION_SECRET", "9f86d081884c7d659a2feaa0c55ad015", find(byName, 1)},
		{"a password in a file", "application.properties", "spring.datasource.username=app\nspring.datasource.password=kJ8fQz2LmX7w\n", find(byName, 2)},
		{"a password in YAML", "config.yaml", "db:\n  user: app\n  password: \"kJ8fQz2LmX7w\"\n", find(byName, 3)},
		{"a password in JSON", "c.json", `{"user": "app", "clientSecret": "kJ8fQz2LmX7w", "port": 5432}`, find(byName, 1)},
		{"an argument", "args", "--api-key=kJ8fQz2LmX7w", find(byName, 1)},
		{"a reference", "DB_PASSWORD", "$(OTHER_PASSWORD_9X)", nil},
		{"a path", "TOKEN", "/var/run/secrets/Token1", nil},
		{"a Vault path", "secret", "secret/data/web/db1", nil},
		{"the name of a file", "passwordFile", "kJ8fQz2LmX7w", nil},
		{"the name of a Secret", "secretName", "my-Db2-secret-x9", nil},
		{"a time to live", "tokenTTL", "kJ8fQz2LmX7w", nil},
		{"words", "secret", "my-app-db-credentials", nil},
		{"words with a number", "token", "MyService2", nil},
		{"a placeholder", "password", "ChangeMe123!", nil},
		{"another placeholder", "API_KEY", "YOUR_API_KEY_1a", nil},
		{"a plain word", "password", "password123", nil},
		{"a hash", "adminPassword", "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy", nil},
		{"a checksum", "config_sha256", "9f86d081884c7d659a2feaa0c55ad015", nil},
		{"a sentence", "password", "The password is in Vault, at web/db1", nil},
		{"a boolean", "useToken", "true", nil},
		{"a certificate authority", "token", "sha256:9f86d081884c7d659a2feaa0c55ad015", nil},
		{"a UUID elsewhere", "clusterID", "2d0f3c6a-7c1e-4a54-8f2e-5b8f0a1b2c3d", nil},
		{"a host name", "auth-key", "Auth2.Cluster9.internal", nil},
		{"a script", "run.sh", "TOKEN=$(cat /var/run/secrets/token)\ncurl -H \"Authorization: Bearer $TOKEN\" https://x\n", nil},
		{"Rails", "SECRET_KEY_BASE", "9f86d081884c7d659a2feaa0c55ad0159f86d081", find(byName, 1)},
		{"a connection string", "ConnectionStrings__Db", "Server=db;Database=app;User Id=sa;Password=Tr0ub4dor;Encrypt=true", find("a connection string with a password", 1)},
		{"a connection string with a variable", "Db", "Server=db;User Id=sa;Password=${DB_PASSWORD};", nil},
		{"a connection string of the system", "Db", "Server=db;Database=app;Integrated Security=true;", nil},
		{"a header", "nginx.conf", "proxy_set_header Authorization: \"Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+letters[:12])) + "\";", find("an Authorization header", 1)},
		{"a header with a variable", "nginx.conf", "proxy_set_header Authorization \"Bearer $token\";", nil},
		{"a registry", "config.json", `{"auths": {"r.example": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("user:"+letters[:12])) + `"}}}`, find("a registry's login", 1)},
		{"another auth", "config.json", `{"auth": "kubernetes"}`, nil},
		{"a schedule", "x", "0 3 * * *", nil},
	} {
		var got []string
		for _, p := range Find(tc.name, tc.text) {
			got = append(got, fmt.Sprintf("%d %s", p.Line, p.Shape))
		}
		testkit.Equal(t, tc.why, got, tc.want)
	}
}

// FuzzFind: no place quotes any part of the text except a name.
func FuzzFind(f *testing.F) {
	f.Add("password", "kJ8fQz2LmX7w")
	f.Add("c", "a: b\nurl: postgres://a:b1C2d3e4@c\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		for _, p := range Find(name, text) {
			if p.Line < 1 || p.Line > 1+strings.Count(text, "\n") || p.Shape == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

func BenchmarkFind(b *testing.B) {
	text := strings.Repeat("server.port=8080\nlogging.level.root=INFO\nurl=https://service.example/path?x=1\n", 200)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Find("application.properties", text)
	}
}
