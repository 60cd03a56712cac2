package node

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// masters is the group that may do anything.
const masters = "system:masters"

// writeCredentials makes every key and certificate of the cluster, and the
// kubeconfigs made of them.
func (l layout) writeCredentials() error {
	if err := l.writeEtcdCredentials(); err != nil {
		return err
	}
	serviceAccounts, err := newServiceAccountKey()
	if err != nil {
		return err
	}
	if err := serviceAccounts.write(l, "service-accounts"); err != nil {
		return err
	}
	ca, caCert, err := newAuthority("mayfly-node")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.pki("ca.crt"), caCert, 0o600); err != nil {
		return fmt.Errorf("writing the cluster's CA certificate: %w", err)
	}
	for file, id := range l.certificates() {
		pair, err := ca.issue(id)
		if err != nil {
			return err
		}
		if err := pair.write(l, file); err != nil {
			return err
		}
	}
	for path, id := range l.clients() {
		pair, err := ca.issue(id)
		if err != nil {
			return err
		}
		if err := l.writeKubeconfig(path, caCert, pair); err != nil {
			return err
		}
	}
	return nil
}

// writeEtcdCredentials gives etcd an authority of its own: whoever can write
// there is the cluster's master, so no client of the API server may.
func (l layout) writeEtcdCredentials() error {
	ca, caCert, err := newAuthority("mayfly-node-etcd")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.pki("etcd-ca.crt"), caCert, 0o600); err != nil {
		return fmt.Errorf("writing etcd's CA certificate: %w", err)
	}
	pair, err := ca.issue(identity{name: "etcd", hosts: []string{l.address()}})
	if err != nil {
		return err
	}
	return pair.write(l, "etcd")
}

func (l layout) certificates() map[string]identity {
	return map[string]identity{
		"apiserver": {name: "kube-apiserver", hosts: []string{
			l.address(), "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		}},
		"apiserver-kubelet": {name: "kube-apiserver-kubelet-client", group: masters},
		"kubelet":           {name: l.address(), hosts: []string{l.address()}},
	}
}

func (l layout) clients() map[string]identity {
	return map[string]identity{
		l.kubeconfig():                             {name: "mayfly-node-admin", group: masters},
		l.pki(string(Kubelet) + ".conf"):           {name: "system:node:" + l.address(), group: "system:nodes"},
		l.pki(string(Scheduler) + ".conf"):         {name: "system:kube-scheduler"},
		l.pki(string(ControllerManager) + ".conf"): {name: "system:kube-controller-manager"},
	}
}

func (l layout) writeKubeconfig(path string, ca []byte, client keyPair) error {
	const name = "mayfly-node"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: l.server(), CertificateAuthorityData: ca}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: client.cert, ClientKeyData: client.key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

func (l layout) server() string { return "https://" + l.address() + ":443" }
