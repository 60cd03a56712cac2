package apiserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// This replaces client-go for reading kubeconfig files, because its code would be a fifth of the
// plugin's memory.

// access is the address of a cluster and the user's credentials.
type access struct {
	server     string
	serverName string
	token      string
	tls        *tls.Config
	proxy      *url.URL
}

// kubeconfig is a file's content (k8s.io/client-go/tools/clientcmd/api/v1).
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Clusters       []struct {
		Name    string       `json:"name"`
		Cluster clusterEntry `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string    `json:"name"`
		User userEntry `json:"user"`
	} `json:"users"`
	Contexts []struct {
		Name    string       `json:"name"`
		Context contextEntry `json:"context"`
	} `json:"contexts"`
}

type contextEntry struct {
	Cluster string `json:"cluster"`
	User    string `json:"user"`
}

type clusterEntry struct {
	Server        string `json:"server"`
	TLSServerName string `json:"tls-server-name"`
	Insecure      bool   `json:"insecure-skip-tls-verify"`
	CAFile        string `json:"certificate-authority"`
	CAData        []byte `json:"certificate-authority-data"`
	ProxyURL      string `json:"proxy-url"`
	dir           string
}

type userEntry struct {
	CertFile  string     `json:"client-certificate"`
	CertData  []byte     `json:"client-certificate-data"`
	KeyFile   string     `json:"client-key"`
	KeyData   []byte     `json:"client-key-data"`
	Token     string     `json:"token"`
	TokenFile string     `json:"tokenFile"`
	Exec      *execEntry `json:"exec"`
	Username  string     `json:"username"`
	Provider  *struct{}  `json:"auth-provider"`
	dir       string
}

type execEntry struct {
	Command    string   `json:"command"`
	Args       []string `json:"args"`
	APIVersion string   `json:"apiVersion"`
	Env        []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
}

// loadAccess reads the same files as kubectl: path, else those of $KUBECONFIG, else ~/.kube/config.
// The first file with a name wins.
func loadAccess(ctx context.Context, path, list, name string) (access, error) {
	files := []string{path}
	if path == "" {
		files = filepath.SplitList(list)
	}
	if len(files) == 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return access{}, fmt.Errorf("finding the kubeconfig (--kubeconfig names one): %w", err)
		}
		files = []string{filepath.Join(home, ".kube", "config")}
	}
	contexts, clusters, users := map[string]contextEntry{}, map[string]clusterEntry{}, map[string]userEntry{}
	for _, file := range files {
		if file == "" {
			continue
		}
		k, err := readKubeconfig(file)
		if errors.Is(err, os.ErrNotExist) && len(files) > 1 {
			continue
		}
		if err != nil {
			return access{}, err
		}
		name = cmp.Or(name, k.CurrentContext)
		for _, x := range k.Contexts {
			addNew(contexts, x.Name, x.Context)
		}
		for _, x := range k.Clusters {
			x.Cluster.dir = filepath.Dir(file)
			addNew(clusters, x.Name, x.Cluster)
		}
		for _, x := range k.Users {
			x.User.dir = filepath.Dir(file)
			addNew(users, x.Name, x.User)
		}
	}
	where := strings.Join(files, ", ")
	x, ok := contexts[name]
	if !ok {
		return access{}, fmt.Errorf("kubeconfig %s has no context %q", where, name)
	}
	c, ok := clusters[x.Cluster]
	if !ok {
		return access{}, fmt.Errorf("kubeconfig %s has no cluster %q, which context %q names", where, x.Cluster, name)
	}
	a, err := c.access(ctx, users[x.User])
	if err != nil {
		return access{}, fmt.Errorf("kubeconfig %s: %w", where, err)
	}
	return a, nil
}

func addNew[V any](m map[string]V, name string, v V) {
	if _, there := m[name]; !there {
		m[name] = v
	}
}

func readKubeconfig(file string) (kubeconfig, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return kubeconfig{}, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return kubeconfig{}, fmt.Errorf("kubeconfig %s: it is not YAML of a kubeconfig", file)
	}
	return k, nil
}

// access combines a cluster and a user.
func (c clusterEntry) access(ctx context.Context, u userEntry) (access, error) {
	a := access{server: c.Server, serverName: c.TLSServerName, token: u.Token}
	a.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName, InsecureSkipVerify: c.Insecure} //nolint:gosec // as the kubeconfig says
	authority, err := content(c.dir, c.CAFile, c.CAData)
	if err != nil {
		return access{}, fmt.Errorf("certificate-authority: %w", err)
	}
	if len(authority) > 0 {
		a.tls.RootCAs = x509.NewCertPool()
		if !a.tls.RootCAs.AppendCertsFromPEM(authority) {
			return access{}, errors.New("certificate-authority: there is no certificate in it")
		}
	}
	if c.ProxyURL != "" {
		if a.proxy, err = url.Parse(c.ProxyURL); err != nil {
			return access{}, errors.New("proxy-url: it is no URL")
		}
	}
	if u.Username != "" || u.Provider != nil {
		return access{}, errors.New("user: log in by a client certificate, a token or exec; username and auth-provider are not known here")
	}
	if u.TokenFile != "" {
		token, err := os.ReadFile(below(u.dir, u.TokenFile))
		if err != nil {
			return access{}, fmt.Errorf("tokenFile: %w", err)
		}
		a.token = strings.TrimSpace(string(token))
	}
	cert, err := content(u.dir, u.CertFile, u.CertData)
	if err != nil {
		return access{}, fmt.Errorf("client-certificate: %w", err)
	}
	key, err := content(u.dir, u.KeyFile, u.KeyData)
	if err != nil {
		return access{}, fmt.Errorf("client-key: %w", err)
	}
	if u.Exec != nil {
		if a.token, cert, key, err = u.Exec.run(ctx); err != nil {
			return access{}, err
		}
	}
	if len(cert) > 0 || len(key) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return access{}, fmt.Errorf("client-certificate and client-key: %w", err)
		}
		a.tls.Certificates = []tls.Certificate{pair}
	}
	return a, nil
}

func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func content(dir, file string, data []byte) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	return os.ReadFile(below(dir, file))
}

// run calls a credential plugin (KEP 541). The command uses its answer until it ends.
func (e *execEntry) run(ctx context.Context) (token string, cert, key []byte, err error) {
	ask := map[string]any{"apiVersion": e.APIVersion, "kind": "ExecCredential", "spec": map[string]bool{"interactive": false}}
	info, err := json.Marshal(ask)
	if err != nil {
		return "", nil, nil, fmt.Errorf("exec: %w", err)
	}
	cmd := exec.CommandContext(ctx, e.Command, e.Args...)
	cmd.Env = append(os.Environ(), "KUBERNETES_EXEC_INFO="+string(info))
	for _, v := range e.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", nil, nil, fmt.Errorf("exec: running %s: %w", e.Command, err)
	}
	var said struct {
		Status struct {
			Token string `json:"token"`
			Cert  string `json:"clientCertificateData"`
			Key   string `json:"clientKeyData"`
		} `json:"status"`
	}
	if err := json.Unmarshal(out, &said); err != nil || said.Status.Token == "" && said.Status.Cert == "" {
		return "", nil, nil, fmt.Errorf("exec: %s gave no ExecCredential", e.Command)
	}
	return said.Status.Token, []byte(said.Status.Cert), []byte(said.Status.Key), nil
}

// client is for one address. An empty name means the host in the address.
func (a access) client(serverName string) *http.Client {
	config := a.tls.Clone()
	config.ServerName = cmp.Or(serverName, a.serverName)
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment}
	if a.proxy != nil {
		transport.Proxy = http.ProxyURL(a.proxy)
	}
	return &http.Client{Transport: bearer{a.token, transport}}
}

// bearer adds the token to each request.
type bearer struct {
	token string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}
