package node

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/mayfly-csi/mayfly/test/pki"
)

// masters is the group that may do anything.
const masters = "system:masters"

// writeCredentials makes every key and certificate of the cluster, and the kubeconfigs with them.
func (l layout) writeCredentials() error {
	if err := l.writeEtcdCredentials(); err != nil {
		return err
	}
	serviceAccounts, err := pki.NewServiceAccountKey()
	if err != nil {
		return err
	}
	if err := l.writePair("service-accounts", serviceAccounts); err != nil {
		return err
	}
	ca, caCert, err := pki.NewAuthority("mayfly-node")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.pki("ca.crt"), caCert, 0o600); err != nil {
		return fmt.Errorf("writing the cluster's CA certificate: %w", err)
	}
	for file, id := range l.certificates() {
		pair, err := ca.Issue(id)
		if err != nil {
			return err
		}
		if err := l.writePair(file, pair); err != nil {
			return err
		}
	}
	for path, id := range l.clients() {
		pair, err := ca.Issue(id)
		if err != nil {
			return err
		}
		if err := l.writeKubeconfig(path, caCert, pair); err != nil {
			return err
		}
	}
	return nil
}

// writeEtcdCredentials gives etcd an authority of its own: write access to etcd is full control of
// the cluster, so no client of the API server may have it.
func (l layout) writeEtcdCredentials() error {
	ca, caCert, err := pki.NewAuthority("mayfly-node-etcd")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.pki("etcd-ca.crt"), caCert, 0o600); err != nil {
		return fmt.Errorf("writing etcd's CA certificate: %w", err)
	}
	pair, err := ca.Issue(pki.Identity{Name: "etcd", Hosts: []string{l.address()}})
	if err != nil {
		return err
	}
	return l.writePair("etcd", pair)
}

func (l layout) certificates() map[string]pki.Identity {
	return map[string]pki.Identity{
		"apiserver": {Name: "kube-apiserver", Hosts: []string{
			l.address(), "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		}},
		"apiserver-kubelet": {Name: "kube-apiserver-kubelet-client", Group: masters},
		"kubelet":           {Name: l.address(), Hosts: []string{l.address()}},
	}
}

func (l layout) clients() map[string]pki.Identity {
	return map[string]pki.Identity{
		l.kubeconfig():                             {Name: "mayfly-node-admin", Group: masters},
		l.pki(string(Kubelet) + ".conf"):           {Name: "system:node:" + l.address(), Group: "system:nodes"},
		l.pki(string(Scheduler) + ".conf"):         {Name: "system:kube-scheduler"},
		l.pki(string(ControllerManager) + ".conf"): {Name: "system:kube-controller-manager"},
	}
}

func (l layout) writeKubeconfig(path string, ca []byte, client pki.Pair) error {
	const name = "mayfly-node"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: l.server(), CertificateAuthorityData: ca}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

func (l layout) server() string { return "https://" + l.address() + ":443" }

// writePair writes a pair as NAME.crt and NAME.key.
func (l layout) writePair(name string, p pki.Pair) error {
	if err := os.WriteFile(l.pki(name+".crt"), p.Cert, 0o600); err != nil {
		return fmt.Errorf("writing the certificate of %s: %w", name, err)
	}
	if err := os.WriteFile(l.pki(name+".key"), p.Key, 0o600); err != nil {
		return fmt.Errorf("writing the key of %s: %w", name, err)
	}
	return nil
}
