package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

const (
	titleEncryption = "Secrets at rest"
	// operations counts, in the API server, writes to etcd and reads from it by encryption
	// provider. It has no series without an encryption configuration.
	operations = "apiserver_storage_transformation_operations_total"
	// unencrypted is the provider that does not encrypt.
	unencrypted = "identity"
)

// storage is what an API server's metric says about Secrets.
type storage struct {
	// any says that there is an encryption configuration for some resource.
	any bool
	// written and read are the providers of Secrets since the API server's start.
	written, read []string
}

var label = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)

// readStorage reads an API server's metrics line by line.
func readStorage(r io.Reader) (storage, error) {
	var s storage
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadString('\n')
		if labels, count, ok := sample(line); ok && count > 0 && (labels["status"] == "" || labels["status"] == "OK") {
			s.add(labels)
		}
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
	}
}

func sample(line string) (labels map[string]string, count float64, ok bool) {
	rest, found := strings.CutPrefix(line, operations+"{")
	if !found {
		return nil, 0, false
	}
	end := strings.LastIndexByte(rest, '}')
	if end < 0 {
		return nil, 0, false
	}
	labels = map[string]string{}
	for _, m := range label.FindAllStringSubmatch(rest[:end], -1) {
		labels[m[1]] = m[2]
	}
	fields := strings.Fields(rest[end+1:])
	if len(fields) == 0 {
		return nil, 0, false
	}
	count, err := strconv.ParseFloat(fields[0], 64)
	return labels, count, err == nil
}

func (s *storage) add(labels map[string]string) {
	s.any = true
	resource, told := labels["resource"]
	if told && resource != "secrets" {
		return
	}
	provider := labels["transformer_prefix"]
	if provider == "" {
		provider = unencrypted
	}
	to := &s.read
	if labels["transformation_type"] == "to_storage" {
		to = &s.written
	}
	if !slices.Contains(*to, provider) {
		*to = append(*to, provider)
		slices.Sort(*to)
	}
}

// encryption checks how Secrets are stored.
func encryption(ctx context.Context, l *look) {
	s, metricErr := askMetrics(ctx, l)
	flag, seen, podErr := askFlags(ctx, l)
	about := finding.Object{Kind: "APIServer"}
	found := 0
	add := func(code string, f finding.Finding) {
		found++
		f.Object = about
		l.add(code, f)
	}
	evidence := "the API server's metric " + operations
	switch {
	case metricErr == nil && len(s.written) > 0:
		written(l, s, evidence, add)
		l.recordCheck(titleEncryption, found, fmt.Sprintf("%s says that Secrets were written with %s", evidence, strings.Join(s.written, ", ")))
		return
	case seen && flag == "":
		add(finding.CodeNotEncrypted, finding.Finding{Message: "a kube-apiserver in kube-system runs without --encryption-provider-config"})
		l.recordCheck(titleEncryption, found, "the kube-apiserver's flags name no encryption configuration")
		return
	case metricErr == nil && !s.any && !seen:
		add(finding.CodeNotEncrypted, finding.Finding{Level: finding.Warning, Message: evidence + " has no series, as without an encryption configuration, and its flags could not be read"})
		l.recordCheck(titleEncryption, found, evidence+" has no series")
		return
	}
	detail := "could not be read"
	if s.any || flag != "" {
		detail = "there is an encryption configuration"
		if len(s.read) > 0 {
			detail += ", and Secrets were read with " + strings.Join(s.read, ", ")
		}
		l.unseen++
		l.add(finding.CodeNotReadable, finding.Finding{Object: about, Message: "there is an encryption configuration, but the provider is unknown: no Secret was written since the API server's start, or its metrics could not be read",
			Remedy: "write a Secret, and run the command again as a user who may get /metrics"})
	}
	if metricErr != nil {
		l.notSeen(finding.Object{Kind: "APIServer", Name: "/metrics"}, metricErr)
	}
	if podErr != nil {
		l.notSeen(finding.Object{Kind: "Pod", Namespace: metav1.NamespaceSystem, Name: "*"}, podErr)
	}
	l.unseen++
	l.recordCheck(titleEncryption, 0, detail)
}

// written checks the providers that wrote Secrets.
func written(l *look, s storage, evidence string, add func(string, finding.Finding)) {
	if len(s.written) == 1 && s.written[0] == unencrypted {
		add(finding.CodeNotEncrypted, finding.Finding{Message: evidence + " says that Secrets were written with the provider identity, which does not encrypt"})
		return
	}
	if len(s.written) > 1 {
		add(finding.CodeStaleEncryption, finding.Finding{Message: fmt.Sprintf("%s says that Secrets were written with %s since the API server's start: the configuration was changed", evidence, strings.Join(s.written, ", "))})
	}
	for _, provider := range s.written {
		if weak := weakness(provider); weak != "" {
			add(finding.CodeWeakEncryption, finding.Finding{Message: fmt.Sprintf("%s says that Secrets were written with %s: %s", evidence, provider, weak)})
		}
	}
	for _, provider := range s.read {
		if !slices.Contains(s.written, provider) {
			add(finding.CodeStaleEncryption, finding.Finding{Message: fmt.Sprintf("%s says that Secrets were read with %s, and none was written with it", evidence, provider)})
		}
	}
}

// weakness says what is wrong with a provider by its prefix in etcd; empty for KMS v2.
func weakness(provider string) string {
	switch {
	case strings.Contains(provider, ":kms:v2:"), provider == unencrypted:
		return ""
	case strings.Contains(provider, ":kms:v1:"):
		return "KMS v1 is deprecated, and off by default since Kubernetes 1.29"
	case strings.Contains(provider, ":aescbc:"), strings.Contains(provider, ":aesgcm:"), strings.Contains(provider, ":secretbox:"):
		return "its key is in a file of the control plane's nodes"
	}
	return "this version does not know the provider"
}

func askMetrics(ctx context.Context, l *look) (storage, error) {
	stream, err := l.client.Discovery().RESTClient().Get().AbsPath("/metrics").Stream(ctx)
	if err != nil {
		return storage{}, err
	}
	defer stream.Close()
	return readStorage(stream)
}

// askFlags reads the flags of API servers that run as pods in kube-system.
func askFlags(ctx context.Context, l *look) (file string, seen bool, err error) {
	const name = "encryption-provider-config"
	err = cluster.Pages(func(o metav1.ListOptions) (string, error) {
		o.LabelSelector = "component=kube-apiserver"
		list, err := l.client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			for _, container := range list.Items[i].Spec.Containers {
				words := slices.Concat(container.Command, container.Args)
				value := cluster.DriverFlags(&corev1.Container{Args: words})[name]
				if !seen || value == "" {
					file = value
				}
				seen = true
			}
		}
		return list.Continue, nil
	})
	return file, seen, err
}
